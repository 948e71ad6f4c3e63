"""Sorts Debian's package descriptions into sections: a Hugging Face BERT and its Trainer.

attune run -- python experiments/python/bert_sections.py [steps]
"""

import collections
import random
import sys
import tempfile

import torch
from attune.integrations.huggingface import AttuneCallback
from packages import packages
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

WORDS, LENGTH, SECTIONS = 4000, 32, 20
SHAPE = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 8}

torch.set_num_threads(1)
rows = packages()
sections = collections.Counter(section for _, section in rows).most_common(SECTIONS)
label = {section: number for number, (section, _) in enumerate(sections)}
counted = collections.Counter(word for text, _ in rows for word in text.lower().split())
number = {word: place + 2 for place, (word, _) in enumerate(counted.most_common(WORDS))}


def example(text: str, section: str) -> dict:
    words = [number.get(word, 1) for word in text.lower().split()[:LENGTH]]
    return {
        "input_ids": words + [0] * (LENGTH - len(words)),
        "attention_mask": [1] * len(words) + [0] * (LENGTH - len(words)),
        "labels": label[section],
    }


random.Random(0).shuffle(rows)
examples = [example(*row) for row in rows if row[1] in label]
model = BertForSequenceClassification(
    BertConfig(vocab_size=WORDS + 2, max_position_embeddings=LENGTH, num_labels=SECTIONS, **SHAPE)
)
callback = AttuneCallback(name="bert-sections", fresh=True)
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        folder,
        max_steps=int(sys.argv[1]) if len(sys.argv) > 1 else 500,
        per_device_train_batch_size=32,
        learning_rate=5e-4,
        eval_strategy="steps",
        eval_steps=250,
        report_to=[],
        use_cpu=True,
    )
    trainer = Trainer(
        model, arguments, None, examples[2000:], examples[:2000], callbacks=[callback]
    )
    trainer.train()
    print(trainer.evaluate())
plain = trainer.model  # without attune from here on: trainer.save_model() saves what was trained
