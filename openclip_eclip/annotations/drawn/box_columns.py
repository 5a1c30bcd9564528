"""The columns of a table of boxes: guessed from its header, or named with --box-columns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...config import UserError

# letters and digits of usual names, the best first
IMAGE = (
    "imageid image imagename imagefile imagepath imageindex filename file filepath fname img imgid"
    " imgname imgpath path dicomid sopinstanceuid dicom externalid studyid patientid id"
).split()
LABEL = (
    "classname labelname findinglabel findingname label class category categoryname finding"
    " findinglabels object objectclass lesion lesiontype pathology disease phrase"
    " labeltext labels categories type name classid labelid"
).split()
ANNOTATOR = (
    "radid annotator annotatorid reader readerid rater raterid radiologist radiologistid observer"
    " worker workerid user userid username expert expertid doctor"
).split()
CORNERS = (
    "xmin x1 x0 minx xtl left bboxxmin bboxx1 bboxx0 boxxmin boxx1 xstart".split(),
    "ymin y1 y0 miny ytl top bboxymin bboxy1 bboxy0 boxymin boxy1 ystart".split(),
    "xmax x2 maxx xbr right bboxxmax bboxx2 boxxmax boxx2 xend x1".split(),
    "ymax y2 maxy ybr bottom bboxymax bboxy2 boxymax boxy2 yend y1".split(),
)
SIDES = (
    "x bboxx boxx xmin x1 x0 left xtl xleft".split(),
    "y bboxy boxy ymin y1 y0 top ytl ytop".split(),
    "width w bboxwidth boxwidth bboxw boxw bw".split(),
    "height h bboxheight boxheight bboxh boxh bh".split(),
)
IMAGE_SIDES = (
    "imageheight imgheight originalheight height".split(),
    "imagewidth imgwidth originalwidth width".split(),
)
# of gaze tables: they may have x, y, width and height, too
GAZE = re.compile(
    "fixation|duration|timestamp|pupil|gaze|saccade|(left|right)(eye|x|y)$|validity|startsecs"
)


@dataclass(frozen=True)
class BoxColumns:
    """Names of columns; "" or (): the table has none."""

    image: str
    box: tuple[str, ...]  # four
    corners: bool  # the box is xmin, ymin, xmax, ymax; otherwise x, y, width, height
    label: str = ""
    annotator: str = ""
    size: tuple[str, ...] = ()  # height and width of the image

    @property
    def used(self) -> list[str]:
        return [name for name in (self.image, *self.box, self.label, self.annotator, *self.size)
                if name]  # fmt: skip


def guess_columns(header: Sequence[str]) -> BoxColumns | None:
    """The columns of a header; None if there is no image, or no box, or it is a table of gaze."""
    names = simplified(header)
    if any(GAZE.search(name) for name in names):
        return None
    image = first_of(names, IMAGE)
    for forms, corners in ((CORNERS, True), (SIDES, False)):
        box = _four(names, forms)
        if image and box:
            size = tuple(first_of(names, usual) for usual in IMAGE_SIDES) if corners else ()
            return BoxColumns(
                image,
                box,
                corners,
                first_of(names, LABEL),
                first_of(names, ANNOTATOR),
                size if all(size) else (),
            )
    return None


def named_columns(given: str, form: str | None) -> BoxColumns:
    """The columns that --box-columns names, in the order image, four of the box, label, annotator.

    `form`: "corners" or "sides"; None: sides if the last two of the box are called so.

    Raises:
        UserError: not five to seven names, or a name twice.
    """
    names = [name.strip() for name in given.split(",")]
    if not 5 <= len(names) <= 7 or not all(names) or len(set(names)) < len(names):
        raise UserError(
            f"--box-columns {given}: {len(names)} names; expected five to seven, each once, with"
            " commas between: image, four of the box, and if there are: label, annotator."
        )
    image, *box = names[:5]
    called = [simplify(name) in usual for name, usual in zip(box[2:], SIDES[2:])]
    corners = form == "corners" if form else not any(called)
    label, annotator = (*names[5:], "", "")[:2]
    return BoxColumns(image, tuple(box), corners, label, annotator)


def simplify(name: str) -> str:
    """Letters and digits of a name, in lower case."""
    return re.sub(r"[\W_]+", "", name.lower())


def simplified(header: Sequence[str]) -> dict[str, str]:
    """{simplified name: name}; the first of several counts."""
    return {simplify(name): name for name in reversed(header)}


def first_of(names: dict[str, str], usual: Sequence[str]) -> str:
    """The name of the column that has one of the `usual` names, the first of them; "" for none."""
    return next((names[name] for name in usual if name in names), "")


def _four(names: dict[str, str], forms: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Four different columns of one form, or ()."""
    left = dict(names)
    found = []
    for usual in forms:
        name = next((name for name in usual if name in left), None)
        if name is None:
            return ()
        found.append(left.pop(name))
    return tuple(found)
