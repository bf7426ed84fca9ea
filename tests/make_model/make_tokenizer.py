"""Write tokenizer.json and vocabulary.json to the current folder.

One token for each word, then Whisper's marks and its times: 1,501 of them, 0.02 s apart. The shape is that
of the English-only models, which have no language marks.
"""

import json
import random
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

WORDS = Path(__file__).with_name("words.txt").read_text().split()
MARKS = ("endoftext", "startoftranscript", "translate", "transcribe", "startoflm", "startofprev", "nospeech",
         "notimestamps")  # fmt: skip


def train_tokenizer() -> Tokenizer:
    """A byte-level BPE that has seen nothing but the words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    rng = random.Random(0)
    corpus = [" " + " ".join(rng.choice(WORDS) for _ in range(6)) for _ in range(3000)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens([AddedToken(f"<|{mark}|>", special=True) for mark in MARKS])
    return tokenizer


def main() -> None:
    tokenizer = train_tokenizer()
    split = [word for word in WORDS if len(tokenizer.encode(" " + word).ids) != 1]
    if split:
        raise SystemExit(f"these words are more than one token: {split}")
    tokenizer.save("tokenizer.json")
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    vocabulary = [token for token, _ in by_id] + [f"<|{step * 0.02:.2f}|>" for step in range(1501)]
    Path("vocabulary.json").write_text(json.dumps(vocabulary))
    print(f"{len(vocabulary)} tokens")


if __name__ == "__main__":
    main()
