"""Train the network on the utterances in train/, and measure the word error rate on those in val/.

    python train.py short MINUTES WEIGHTS [FROM]     windows of 6 s, from which it learns the words
    python train.py full MINUTES WEIGHTS [FROM]      windows of 30 s, as Whisper uses them

WEIGHTS is written every 200 steps and at the end; FROM is an earlier one to go on from.
"""

import math
import queue
import random
import sys
import threading
import time
from pathlib import Path

import numpy as np
import torch
from network import Whisper
from torch.nn import functional
from windows import END, FIRST_TIME, NO_TIMES, START, TOKENIZER, VOCABULARY, Utterance, batch, load, scale

# The batch, the frames of a window and the highest learning rate.
PHASES = {"short": (24, 600, 2e-3), "full": (8, 3000, 1.2e-3)}


def produce(pool: list[Utterance], size: int, frames: int, batches: queue.Queue) -> None:
    """Keep the queue full: runs in a thread beside the training."""
    rng = random.Random(1)
    while True:
        batches.put(batch(pool, rng, size, frames))


def transcribe(model: Whisper, mel: np.ndarray, frames: int) -> list[str]:
    """Greedy, without times."""
    window = np.zeros((1, 80, frames), np.float32)
    window[0, :, : mel.shape[1]] = scale(mel)
    encoded = model.encode(torch.from_numpy(window))
    tokens = [START, NO_TIMES]
    while len(tokens) < 40 and tokens[-1] != END:
        logits = model.decode(torch.tensor([tokens]), encoded)[0, -1]
        tokens.append(int(logits[:FIRST_TIME].argmax()))
    return TOKENIZER.decode(tokens).split()


def distance(said: list[str], heard: list[str]) -> int:
    """How many words to insert, delete or replace."""
    row = list(range(len(heard) + 1))
    for number, word in enumerate(said, 1):
        above, row = row, [number]
        for column, other in enumerate(heard, 1):
            row.append(min(above[column] + 1, row[-1] + 1, above[column - 1] + (word != other)))
    return row[-1]


@torch.no_grad()
def error_rate(model: Whisper, utterances: list[Utterance], frames: int) -> float:
    model.eval()
    short = [one for one in utterances if one.mel.shape[1] <= frames]
    wrong = sum(distance(one.words, transcribe(model, one.mel, frames)) for one in short)
    model.train()
    return wrong / sum(len(one.words) for one in short)


def learning_rate(peak: float, step: int, warm_up: int, done: float) -> float:
    """Up over the first steps, then down along a cosine to a twentieth at the end of the time."""
    return peak * min(1, (step + 1) / warm_up) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def learn(model: Whisper, optimizer: torch.optim.Optimizer, example: tuple[torch.Tensor, ...]) -> float:
    """One step; the loss."""
    windows, tokens, weights = example
    logits = model.decode(tokens[:, :-1], model.encode(windows))
    losses = functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    loss = (losses * weights).sum() / weights.sum()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def main(phase: str, minutes: float, weights: Path, earlier: Path | None) -> None:
    torch.manual_seed(0)
    size, frames, peak = PHASES[phase]
    train, check = load(Path("train")), load(Path("val"))[:60]
    model = Whisper(len(VOCABULARY))
    if earlier:
        model.load_state_dict(torch.load(earlier))
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.01)
    batches: queue.Queue = queue.Queue(8)
    threading.Thread(target=produce, args=(train, size, frames, batches), daemon=True).start()
    began, step, losses = time.monotonic(), 0, [0.0]
    while (done := (time.monotonic() - began) / (60 * minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(peak, step, 20 if earlier else 300, done)
        losses.append(learn(model, optimizer, batches.get()))
        step += 1
        if step % 200 == 0:
            torch.save(model.state_dict(), weights)
            rate = error_rate(model, check, frames)
            print(f"{done:.0%}: step {step}, loss {np.mean(losses[-200:]):.3f}, WER {rate:.1%}", flush=True)
    torch.save(model.state_dict(), weights)
    rate = error_rate(model, check, max(frames, 1000))
    print(f"{step} steps, loss {np.mean(losses[-200:]):.3f}, WER {rate:.1%}")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]) if sys.argv[4:] else None)
