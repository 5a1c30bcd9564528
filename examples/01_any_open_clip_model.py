"""One step of Algorithm 1 on an open_clip model: put `eclip-` before the name of any model.

python examples/01_any_open_clip_model.py                   # a tiny model, seconds
python examples/01_any_open_clip_model.py eclip-ViT-B-32    # open_clip's own, random weights
"""

import sys
from pathlib import Path

import open_clip
import torch

import openclip_eclip  # noqa: F401
from openclip_eclip.batching.expert_batch import ExpertBatch
from openclip_eclip.loss import EClipLoss

name = (
    sys.argv[1]
    if len(sys.argv) > 1
    else f"eclip-local-dir:{Path(__file__).parent / 'configs' / 'tiny'}"
)
torch.manual_seed(0)
model = open_clip.create_model(name)
tokenizer = open_clip.get_tokenizer(name)

# Four samples; the second and the fourth have a heatmap and pass the gate, with these values of
# lambda.
height, width = model.visual.image_size
heatmap = torch.zeros(2, 1, height, width)
heatmap[:, :, height // 4 : height // 2, width // 4 : width // 2] = 1
batch = ExpertBatch(
    image=torch.randn(4, 3, height, width),
    sample_id=torch.arange(4),
    mix_index=torch.tensor([1, 3]),
    mixed_id=torch.tensor([1, 3]),
    heatmap=heatmap,
    lam=torch.tensor([0.2, 0.7]),
    expert_image=torch.zeros(0, 3, height, width),
    expert_text=torch.zeros(0, tokenizer.context_length, dtype=torch.int64),
    is_priming=True,
)
text = tokenizer(
    ["no finding", "a nodule in the left upper lung", "clear lungs", "an effusion on the right"]
)

loss = EClipLoss()
loss.configure(model.eclip_config)
out = model(batch, text)
losses = loss(**out, output_dict=True)
sum(losses.values()).backward()

for key, value in out.items():
    print(f"{key:20}", tuple(value.shape))
print({key: round(value.item(), 4) for key, value in losses.items()})
print(
    "the processor learns:",
    any(p.grad is not None and bool(p.grad.any()) for p in model.heatmap_processor.parameters()),
)

# inference is plain open_clip, without heatmap and processor
with torch.no_grad():
    print("plain image features", tuple(model.encode_image(batch.image, normalize=True).shape))
