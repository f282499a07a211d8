"""Texts and padding."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..kits import DEFAULT, EVERYTHING, Kit, NotThereError
from .base import OF_TEXTS, TEXTS, Counted, behaviour, ids, letters


@behaviour("Texts and padding", "one string: BOS left out")
def one_string_bos_left_out(kit: Kit) -> Counted:
    with kit.attach() as probe:
        kit.model("coffee")
    return kit.read(probe), letters("coffee")


@behaviour("Texts and padding", "one string, skip_first=0 and skip_special=False: BOS counted")
def one_string_skip_first_0_and_skip_special_false(kit: Kit) -> Counted:
    with kit.attach(EVERYTHING) as probe:
        kit.model("coffee")
    return kit.read(probe), [0, *letters("coffee")]


@behaviour("Texts and padding", "token ids: the first position left out")
def token_ids_the_first_position_left_out(kit: Kit) -> Counted:
    with kit.attach() as probe:
        kit.model(ids(5, 6, 7))
    return kit.read(probe), [6, 7]


@behaviour("Texts and padding", "list of strings, padded on the right (no mask anywhere)")
def list_of_strings_padded_on_the_right_no_mask(kit: Kit) -> Counted:
    with kit.attach() as probe:
        kit.model(TEXTS)
    return kit.read(probe), OF_TEXTS


@behaviour("Texts and padding", "list of strings, padded on the left by the tokenizer")
def list_of_strings_padded_on_the_left_by_the(kit: Kit) -> Counted:
    kit.model.tokenizer.padding_side = "left"
    try:
        with kit.attach() as probe:
            kit.model(TEXTS)
        return kit.read(probe), OF_TEXTS
    finally:
        kit.model.tokenizer.padding_side = "right"


@behaviour("Texts and padding", 'list of strings, padding_side="left" in the call')
def list_of_strings_padding_side_left_in_the_call(kit: Kit) -> Counted:
    if torch.equal(kit.model.to_tokens(TEXTS, padding_side="left"), kit.model.to_tokens(TEXTS)):
        raise NotThereError("working padding_side")  # 3.5.1 pads on the right all the same, and masks as if on the left
    with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
        kit.model(TEXTS, padding_side="left")
    return kit.read(probe), OF_TEXTS


@behaviour("Texts and padding", 'list of strings, padding_side="right" against the tokenizer\'s side')
def list_of_strings_padding_side_right_against_the_tokenizer(kit: Kit) -> Counted:
    kit.model.tokenizer.padding_side = "left"
    try:
        with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
            kit.model(TEXTS, padding_side="right")
        return kit.read(probe), OF_TEXTS
    finally:
        kit.model.tokenizer.padding_side = "right"


@behaviour("Texts and padding", "an explicit attention mask")
def an_explicit_attention_mask(kit: Kit) -> Counted:
    tokens = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 8, 9]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    with kit.attach() as probe:
        kit.model(tokens, attention_mask=mask)
    return kit.read(probe), [6, 7, 6, 7, 8, 9]


@behaviour("Texts and padding", "an explicit mask of a left-padded batch: the first real position left out")
def an_explicit_mask_of_a_left_padded_batch_the(kit: Kit) -> Counted:
    tokens = torch.tensor([[5, 5, 7, 8, 9], [5, 6, 7, 8, 9]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    with kit.attach() as probe:
        kit.model(tokens, attention_mask=mask)
    return kit.read(probe), [8, 9, 6, 7, 8, 9]


@behaviour("Texts and padding", "one row that ends in the padding token: a token, not padding")
def one_row_that_ends_in_the_padding_token_a(kit: Kit) -> Counted:
    with kit.attach(replace(DEFAULT, skip_special=False)) as probe:
        kit.model(ids(5, 6, 7, 0))
    return kit.read(probe), [6, 7, 0]


@behaviour("Texts and padding", "a packed row with BOS inside: each BOS left out")
def a_packed_row_with_bos_inside_each_bos_left(kit: Kit) -> Counted:
    with kit.attach() as probe:
        kit.model(ids(0, 5, 6, 0, 7, 8, 0))
    return kit.read(probe), [5, 6, 7, 8]


@behaviour("Texts and padding", "no tokenizer: by position alone")
def no_tokenizer_by_position_alone(kit: Kit) -> Counted:
    tok = kit.model.tokenizer
    kit.model.tokenizer = None
    try:
        with kit.attach() as probe:
            kit.model(torch.tensor([[5, 6, 0], [7, 8, 9]]))
        return kit.read(probe), [6, 0, 8, 9]
    finally:
        kit.model.tokenizer = tok
