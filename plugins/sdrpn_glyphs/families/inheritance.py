"""Copy from a trained backbone what another family's model has in common with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sdrpn_core import Backbone

KEY_VALUE = ("k_proj", "v_proj")


@torch.no_grad()
def inherit_words(new: Backbone, old: Backbone) -> None:
    """Copy the input and output embeddings of the words that both tokenizers know."""
    ours, theirs = new.tokenizer.get_vocab(), old.tokenizer.get_vocab()
    shared = [word for word in ours if word in theirs]
    to = torch.tensor([ours[word] for word in shared])
    source = torch.tensor([theirs[word] for word in shared])
    for mine, other in (
        (new.embedding, old.embedding),
        (new.model.get_output_embeddings(), old.model.get_output_embeddings()),
    ):
        mine.weight[to] = other.weight[source]
    # The token that ends a response has a different name in every family.
    end, old_end = new.tokenizer.eos_token_id, old.tokenizer.eos_token_id
    new.embedding.weight[end] = old.embedding.weight[old_end]
    new.model.get_output_embeddings().weight[end] = old.model.get_output_embeddings().weight[
        old_end
    ]


@torch.no_grad()
def inherit_decoder(new: Backbone, old: Backbone) -> None:
    """Copy the decoder, parameter by parameter, as far as names and shapes agree.

    With fewer key and value heads, each of them inherits from the last head of its group; the other
    heads of the group have to be learned again.
    """
    source = dict(old.decoder.named_parameters())
    head_dim = old.hidden_size // old.text_config.num_attention_heads
    for name, parameter in new.decoder.named_parameters():
        if name not in source or name.startswith("embed_tokens"):
            continue
        values = source[name]
        if values.shape != parameter.shape and name.split(".")[-2] in KEY_VALUE:
            group = len(values) // len(parameter)
            values = values.unflatten(0, (-1, group, head_dim))[:, -1].flatten(0, 1)
        parameter.copy_(values)
