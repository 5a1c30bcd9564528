"""Writes reports from retrieved reports (§4.4).

Holds the prompt, the writers behind one interface, and the cleaning of their answers:

template = read_template(args.prompt_template)
writer = open_writer(args, reports)                         # once a run
chat = build_chat(template, examples, snippets)             # exactly what is sent: save it
generations = writer.write([Query("image 7", chat, nearest)])
"""

from .base import Chat, Generation, Query, Writer, count_faults
from .clean import clean_text
from .prompt import Template, WorkedExample, build_chat, read_template
from .writers import add_writer_arguments, open_writer

__all__ = [
    "Chat",
    "Generation",
    "Query",
    "Template",
    "WorkedExample",
    "Writer",
    "add_writer_arguments",
    "build_chat",
    "clean_text",
    "count_faults",
    "open_writer",
    "read_template",
]
