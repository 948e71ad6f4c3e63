"""Reads scikit-learn's handwritten digits: a small ViT in Lightning.

attune run -- python experiments/python/vit_digits.py [steps]
"""

import sys

import lightning as L
import torch
from attune.integrations.lightning import AttuneCallback
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset
from transformers import ViTConfig, ViTForImageClassification

SHAPE = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 8}
torch.set_num_threads(1)


class Digits(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.vit = ViTForImageClassification(
            ViTConfig(image_size=8, patch_size=2, num_channels=1, num_labels=10, **SHAPE)
        )

    def training_step(self, batch, _):
        images, labels = batch
        return self.vit(images, labels=labels).loss

    def validation_step(self, batch, _):
        images, labels = batch
        output = self.vit(images, labels=labels)
        self.log("val_loss", output.loss)
        self.log("accuracy", (output.logits.argmax(1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), 1e-3)


L.seed_everything(0)
digits = load_digits()
order = torch.randperm(len(digits.target))
images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1)[order] / 8 - 1
labels = torch.tensor(digits.target)[order]
training = DataLoader(TensorDataset(images[300:], labels[300:]), 32, shuffle=True)
validation = DataLoader(TensorDataset(images[:300], labels[:300]), 300)
callback = AttuneCallback(name="vit-digits", fresh=True)
trainer = L.Trainer(
    max_steps=int(sys.argv[1]) if len(sys.argv) > 1 else 500,
    callbacks=[callback],
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
)
trainer.fit(Digits(), training, validation)
print({name: round(float(value), 4) for name, value in trainer.callback_metrics.items()})
plain = callback.handle.bake()
