"""Train the bundled model, coffee-gpt2, on a folder of plain-text books.

The architecture is GPT-2's with GPT-2's depth (12 blocks, so 13 hidden states) and a narrow residual stream. The folder holds
``*.txt`` files, UTF-8, one paragraph a line. Each book is cut into 25 blocks of consecutive paragraphs and the 13th is held out:
neither the tokenizer nor the model sees it. The loss on those blocks is compared with a unigram and a bigram model of the same
tokens, fitted on the same training text, all in bits per byte, and written into the model's README.

    python tools/train_coffee_gpt2.py BOOKS OUT --tokens 24_000_000

On two CPU cores that is about an hour. The same seed, torch version and thread count give the same weights on the same machine.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

BOS = "<|endoftext|>"
CONTEXT = 256
BLOCKS = 25
HELD_OUT_BLOCK = 12


def read_books(folder: Path) -> tuple[list[list[str]], list[list[str]]]:
    """Paragraphs of every book, as (training, held out), a list a book."""
    train, held_out = [], []
    for path in sorted(folder.glob("*.txt")):
        paragraphs = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        cuts = np.linspace(0, len(paragraphs), BLOCKS + 1).astype(int)
        a, b = cuts[HELD_OUT_BLOCK], cuts[HELD_OUT_BLOCK + 1]
        train.append(paragraphs[:a] + paragraphs[b:])
        held_out.append(paragraphs[a:b])
    if not train:
        raise SystemExit(f"no *.txt file in {folder}")
    return train, held_out


def train_tokenizer(books: list[list[str]], size: int, out: Path) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((p for book in books for p in book), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=BOS, unk_token=BOS, model_max_length=CONTEXT
    )
    fast.save_pretrained(out)
    return fast


def encode(books: list[list[str]], tokenizer: PreTrainedTokenizerFast) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Token ids of each book (paragraphs end with a newline) and the offsets at which its paragraphs begin."""
    ids, starts = [], []
    for book in books:
        encoded = tokenizer([p + "\n" for p in book])["input_ids"]
        lengths = np.array([len(e) for e in encoded])
        ids.append(np.concatenate([np.array(e, dtype=np.int64) for e in encoded]))
        starts.append(np.concatenate([[0], np.cumsum(lengths)[:-1]]))
    return ids, starts


def windows(ids: list[np.ndarray], starts: list[np.ndarray], rng: np.random.Generator, rows: int) -> torch.Tensor:
    """A batch of BOS + 255 tokens; half of the rows begin where a paragraph begins, books weighted by length."""
    weights = np.array([len(i) for i in ids], dtype=float)
    books = rng.choice(len(ids), size=rows, p=weights / weights.sum())
    batch = np.zeros((rows, CONTEXT), dtype=np.int64)  # BOS has id 0
    for row, book in enumerate(books):
        last = len(ids[book]) - (CONTEXT - 1)
        begins = starts[book][starts[book] <= last]
        at = rng.choice(begins) if rng.random() < 0.5 else rng.integers(0, last + 1)
        batch[row, 1:] = ids[book][at : at + CONTEXT - 1]
    return torch.from_numpy(batch)


def loss_of(model: GPT2LMHeadModel, batch: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(batch).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch[:, 1:].flatten())


def train(
    model: GPT2LMHeadModel,
    ids: list[np.ndarray],
    starts: list[np.ndarray],
    *,
    tokens: int,
    rows: int,
    lr: float,
    seed: int,
) -> None:
    steps = tokens // (rows * CONTEXT)
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)
    warmup = min(200, steps // 10)

    def schedule(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    rng = np.random.default_rng(seed)
    model.train()
    smooth = None
    for _ in (bar := tqdm(range(steps), mininterval=10)):
        loss = loss_of(model, windows(ids, starts, rng, rows))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        bar.set_postfix(loss=f"{smooth:.3f}")


@torch.no_grad()
def nats_of_model(model: GPT2LMHeadModel, ids: list[np.ndarray]) -> float:
    """Total negative log likelihood in float32; every token is predicted once, from 127 to 254 tokens of its past (BOS first)."""
    model.eval()
    total, stride = 0.0, 128
    for book in ids:
        for begin in range(0, len(book), stride):
            history = book[max(0, begin - (CONTEXT - 1 - stride)) : begin]
            chunk = book[begin : begin + stride]
            row = torch.from_numpy(np.concatenate([[0], history, chunk]))[None]
            logits = model(row).logits[0, -len(chunk) - 1 : -1]
            total += torch.nn.functional.cross_entropy(logits, row[0, -len(chunk) :], reduction="sum").item()
    return total


def nats_of_ngrams(train_ids: list[np.ndarray], test_ids: list[np.ndarray], vocabulary: int) -> tuple[float, float]:
    """Unigram (add one) and bigram (interpolated with it) losses; the bigram's weight is the best one for the held-out text."""
    unigram = np.ones(vocabulary)
    bigram = np.zeros((vocabulary, vocabulary))
    for book in train_ids:
        unigram += np.bincount(book, minlength=vocabulary)
        np.add.at(bigram, (book[:-1], book[1:]), 1)
    unigram /= unigram.sum()
    total = bigram.sum(1)
    test = np.concatenate(test_ids)
    first, second = test[:-1], test[1:]
    one = -np.log(unigram[test]).sum()
    # Witten and Bell (1991): the weight of the lower order grows with the number of distinct followers
    followers = (bigram > 0).sum(1)
    best = math.inf
    for factor in (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0):
        back = factor * followers[first]
        p = (bigram[first, second] + back * unigram[second]) / np.maximum(total[first] + back, 1e-300)
        p = np.where(total[first] > 0, p, unigram[second])
        best = min(best, -np.log(p).sum() - np.log(unigram[test[0]]))
    return float(one), float(best)


def write_readme(out: Path, facts: dict[str, float | int | str]) -> None:
    (out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    (out / "README.md").write_text(
        f"""# coffee-gpt2

A small GPT-2 for demonstrations and tests: the GPT-2 architecture with GPT-2's depth, trained from scratch on nine English books
in the public domain, the longest of them about coffee. It is no substitute for GPT-2: use it where a real, trained residual
stream is needed and no hub can be reached.

| | |
|---|---|
| blocks, hence hidden states | 12, 13 |
| residual stream | {facts["width"]} dimensions, {facts["heads"]} heads |
| context | {CONTEXT} tokens |
| vocabulary | {facts["vocabulary"]} (byte-level BPE) |
| parameters | {facts["parameters"]:,}, stored as float16 |
| trained on | {facts["tokens_seen"]:,} tokens ({facts["epochs"]:.1f} passes over {facts["train_tokens"]:,}) |
| seed | {facts["seed"]} |

Loss on held-out text ({facts["held_out_bytes"]:,} bytes: one block of consecutive paragraphs from the middle of each book, seen
by neither the tokenizer nor the model), in bits per byte:

| model | bits per byte |
|---|---|
| unigram over the same tokens | {facts["unigram_bits_per_byte"]:.3f} |
| bigram over the same tokens, Witten-Bell | {facts["bigram_bits_per_byte"]:.3f} |
| **coffee-gpt2** (float16 weights, computed in float32) | **{facts["model_bits_per_byte"]:.3f}** |

The bigram's back-off weight was chosen on the held-out text itself, which flatters the bigram. `training.json` holds these
figures; `tools/train_coffee_gpt2.py` made everything in this folder.
"""
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("books", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokens", type=int, default=24_000_000)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=94)
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    train_books, test_books = read_books(args.books)
    tokenizer = train_tokenizer(train_books, args.vocabulary, args.out)
    train_ids, starts = encode(train_books, tokenizer)
    test_ids, _ = encode(test_books, tokenizer)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=CONTEXT,
        n_embd=args.width,
        n_layer=12,
        n_head=args.heads,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        activation_function="gelu_pytorch_tanh",  # the same function as GPT-2's gelu_new, in one kernel
        attn_pdrop=0.0,  # dropout inside attention rules out the fused kernel
        attn_implementation="sdpa",
    )
    model = GPT2LMHeadModel(config)
    began = time.time()
    train(model, train_ids, starts, tokens=args.tokens, rows=args.rows, lr=args.lr, seed=args.seed)
    minutes = (time.time() - began) / 60

    model.config.activation_function = "gelu_new"
    model.half().save_pretrained(args.out)
    model = GPT2LMHeadModel.from_pretrained(args.out, dtype=torch.float32)
    n_train = sum(len(i) for i in train_ids)
    held_out_bytes = sum(len((p + "\n").encode()) for book in test_books for p in book)
    unigram, bigram = nats_of_ngrams(train_ids, test_ids, len(tokenizer))
    per_byte = 1 / math.log(2) / held_out_bytes
    write_readme(
        args.out,
        {
            "width": args.width,
            "heads": args.heads,
            "vocabulary": len(tokenizer),
            "parameters": sum(p.numel() for p in model.parameters()),
            "seed": args.seed,
            "tokens_seen": args.tokens // (args.rows * CONTEXT) * args.rows * CONTEXT,
            "train_tokens": n_train,
            "epochs": args.tokens / n_train,
            "held_out_tokens": sum(len(i) for i in test_ids),
            "held_out_bytes": held_out_bytes,
            "unigram_bits_per_byte": unigram * per_byte,
            "bigram_bits_per_byte": bigram * per_byte,
            "model_bits_per_byte": nats_of_model(model, test_ids) * per_byte,
            "minutes": round(minutes, 1),
            "torch": torch.__version__,
        },
    )
    print((args.out / "README.md").read_text())


if __name__ == "__main__":
    main()
