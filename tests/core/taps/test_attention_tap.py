"""The tap's rows are those of stock eager attention, under every implementation."""

from __future__ import annotations

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache, Gemma2Config

from sdrpn_core.backbone.question import Question
from sdrpn_core.errors import AttentionError, ConfigError
from sdrpn_core.runtime.generation import prompt_block
from sdrpn_core.runtime.kv_cache import cache_argument
from sdrpn_core.taps.attention_math import allowed_keys, head_products, keys_in_window
from sdrpn_core.taps.attention_tap import AttentionTap
from tests.tiny import tiny_image, tiny_llava

N_LAYERS, N_HEADS = 6, 4
#: float32, several layers deep, another order of summation.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
ALL_LAYERS = dict.fromkeys(range(N_LAYERS))
QUESTIONS = (
    Question("what color is the square ?", (tiny_image(0),)),
    Question("how many ?", (tiny_image(1), tiny_image(2, (30, 80)))),
)


@pytest.fixture(scope="module", params=[4, 2], ids=["mha", "gqa"])
def kv_heads(request):
    return request.param


@pytest.fixture(scope="module")
def eager(kv_heads):
    return tiny_llava(attn_implementation="eager", num_key_value_heads=kv_heads)


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def backbone(request, kv_heads):
    return tiny_llava(attn_implementation=request.param, num_key_value_heads=kv_heads)


def inputs_of(backbone):
    block = prompt_block(backbone, backbone.encode(QUESTIONS))
    return {
        "inputs_embeds": block.embeds,
        "attention_mask": block.mask,
        "position_ids": block.positions,
    }


@pytest.fixture(scope="module")
def inputs(backbone):
    return inputs_of(backbone)


@pytest.fixture(scope="module")
def stock(eager):
    """Per layer ``(batch, heads, queries, keys)`` from transformers itself."""
    with torch.no_grad():
        return eager.decoder(**inputs_of(eager), output_attentions=True).attentions


def real_rows(rows: torch.Tensor, inputs) -> torch.Tensor:
    """Rows of tokens; those of padding mean nothing."""
    return rows.transpose(1, 2)[inputs["attention_mask"][:, -rows.shape[2] :].bool()]


def assert_rows_equal(found: torch.Tensor, expected: torch.Tensor, inputs) -> None:
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    torch.testing.assert_close(real_rows(found, inputs), real_rows(expected, inputs), **CLOSE)


@torch.no_grad()
def test_all_rows_of_all_heads_in_all_layers(backbone, inputs, stock):
    with AttentionTap(backbone.decoder, ALL_LAYERS) as tap:
        backbone.decoder(**inputs)
    for layer in range(N_LAYERS):
        assert_rows_equal(tap.weights(layer), stock[layer], inputs)


@torch.no_grad()
def test_scaling_and_caps_of_logits_are_those_of_the_decoder():
    """Gemma 2 (eager alone) scales by a number of its own, and bounds what enters the softmax."""
    backbone = tiny_llava(
        decoder=Gemma2Config,
        attn_implementation="eager",
        head_dim=16,
        num_key_value_heads=2,
        query_pre_attn_scalar=1,
        attn_logit_softcapping=0.5,
        layer_types=["full_attention"] * N_LAYERS,
    )
    inputs = inputs_of(backbone)
    expected = backbone.decoder(**inputs, output_attentions=True).attentions
    with AttentionTap(backbone.decoder, {0: None}) as tap:
        backbone.decoder(**inputs)
    assert_rows_equal(tap.weights(0), expected[0], inputs)


def test_a_mask_of_tokens_alone_leaves_padding_out_and_is_causal():
    """What implementations get that know of causality themselves: one row per sequence."""
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    found = allowed_keys(mask, 1, range(1, 3), 4, mask.device)
    expected = [[[0, 1, 0, 0], [0, 1, 1, 0]], [[1, 1, 0, 0], [1, 1, 1, 0]]]
    assert found.int().tolist() == [[rows] for rows in expected]
    # A window of 2: a row's own key, and the one before it.
    window = keys_in_window(range(1, 4), 4, 2, mask.device)
    assert window.int().tolist() == [[[[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]]]]


@torch.no_grad()
def test_rows_that_are_consumed_are_not_kept(backbone, inputs):
    with AttentionTap(backbone.decoder, ALL_LAYERS, queries=slice(-3, None)) as kept:
        backbone.decoder(**inputs)
    seen = []
    with AttentionTap(
        backbone.decoder,
        ALL_LAYERS,
        queries=slice(-3, None),
        consume=lambda layer, rows: seen.append((layer, rows)),
    ) as tap:
        backbone.decoder(**inputs)
    assert tap.rows == {}
    assert [layer for layer, _ in seen] == list(range(N_LAYERS))
    for layer, rows in seen:
        assert torch.equal(rows.weights, kept.weights(layer))
        assert rows.queries == kept.rows[layer][0].queries


@torch.no_grad()
def test_chosen_heads_come_in_the_order_asked_for(backbone, inputs, stock):
    with AttentionTap(backbone.decoder, {3: (2, 0), 5: (1,)}) as tap:
        backbone.decoder(**inputs)
    assert_rows_equal(tap.weights(3), stock[3][:, [2, 0]], inputs)
    assert_rows_equal(tap.weights(5), stock[5][:, [1]], inputs)
    assert set(tap.rows) == {3, 5}


@pytest.mark.parametrize("queries", [slice(-4, None), slice(5, 9), slice(None, 7), slice(-1, None)])
@torch.no_grad()
def test_chosen_queries(backbone, inputs, stock, queries):
    with AttentionTap(backbone.decoder, {2: None}, queries=queries) as tap:
        backbone.decoder(**inputs)
    expected = stock[2][:, :, queries]
    mask = inputs["attention_mask"][:, queries].bool()
    found = tap.weights(2)
    assert found.shape == expected.shape
    torch.testing.assert_close(found.transpose(1, 2)[mask], expected.transpose(1, 2)[mask], **CLOSE)
    first, last, _ = queries.indices(stock[2].shape[2])
    assert tap.rows[2][0].queries == (first, last)


@torch.no_grad()
def test_chosen_keys_are_columns_of_the_full_softmax(backbone, inputs, stock):
    last = slice(-3, None)
    shared = torch.tensor([40, 3, 41])
    with AttentionTap(backbone.decoder, {4: (1, 3)}, queries=last, keys=shared) as tap:
        backbone.decoder(**inputs)
    expected = stock[4][:, [1, 3], last]
    torch.testing.assert_close(tap.weights(4), expected[..., shared], **CLOSE)
    per_row = torch.tensor([[40, 41], [7, 50]])
    with AttentionTap(backbone.decoder, {4: (1, 3)}, queries=last, keys=per_row) as tap:
        backbone.decoder(**inputs)
    for row, columns in enumerate(per_row):
        torch.testing.assert_close(tap.weights(4)[row], expected[row][..., columns], **CLOSE)


@torch.no_grad()
def test_rows_of_the_tokens_fed_back_inside_generate(backbone, eager, inputs):
    length, n_new = inputs["attention_mask"].shape[1], 5
    options = {"max_new_tokens": n_new, "min_new_tokens": n_new, "do_sample": False}
    reference = eager.model.generate(
        **inputs_of(eager), **options, output_attentions=True, return_dict_in_generate=True
    )
    with AttentionTap(backbone.decoder, {1: None, 4: (2,)}, queries=slice(length, None)) as tap:
        ids = backbone.model.generate(**inputs, **options)
    assert torch.equal(ids, reference.sequences)
    assert len(tap.rows[1]) == n_new - 1  # the last token is not fed back
    fed_back = zip(tap.rows[1], tap.rows[4], reference.attentions[1:], strict=True)
    for step, (every_head, one_head, attentions) in enumerate(fed_back):
        assert every_head.queries == (length + step, length + step + 1)
        torch.testing.assert_close(every_head.weights, attentions[1], **CLOSE)
        torch.testing.assert_close(one_head.weights, attentions[4][:, [2]], **CLOSE)


class _Moves(TorchFunctionMode):
    """Counts how often one tensor is sent to a device."""

    def __init__(self, tensor):
        super().__init__()
        self.tensor = tensor
        self.count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.Tensor.to and args[0] is self.tensor
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_wanted_columns_are_sent_to_the_device_once(backbone, inputs):
    """Not at each token and layer: a GPU would wait for the host each time."""
    length = inputs["attention_mask"].shape[1]
    wanted = torch.tensor([3, 5])
    tapped = {"heads": {1: None, 4: (2,)}, "queries": slice(length, None), "keys": wanted}
    with _Moves(wanted) as moves, AttentionTap(backbone.decoder, **tapped) as tap:
        backbone.model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert tap.weights(1).shape[2:] == (3, 2)
    assert moves.count == 1


@torch.no_grad()
def test_a_pass_in_chunks_on_a_cache_gives_the_rows_of_one_pass(backbone, inputs, stock):
    length = inputs["attention_mask"].shape[1]
    cache, cut = DynamicCache(config=backbone.text_config), 30
    with AttentionTap(backbone.decoder, {2: (0, 3)}, queries=slice(25, 40)) as tap:
        for start, stop in ((0, cut), (cut, length)):
            backbone.decoder(
                inputs_embeds=inputs["inputs_embeds"][:, start:stop],
                attention_mask=inputs["attention_mask"][:, :stop],
                position_ids=inputs["position_ids"][:, start:stop],
                **cache_argument(cache),
                use_cache=True,
            )
    assert [rows.queries for rows in tap.rows[2]] == [(25, 30), (30, 40)]
    for rows in tap.rows[2]:
        first, last = rows.queries
        expected = stock[2][:, [0, 3], first:last, : rows.weights.shape[3]]
        mask = inputs["attention_mask"][:, first:last].bool()
        torch.testing.assert_close(
            rows.weights.transpose(1, 2)[mask],
            expected.transpose(1, 2)[mask],
            **CLOSE,
        )


@torch.no_grad()
def test_outputs_are_unchanged_bit_for_bit_while_tapped(backbone, inputs):
    before = backbone.decoder(**inputs).last_hidden_state
    with AttentionTap(backbone.decoder, ALL_LAYERS):
        during = backbone.decoder(**inputs).last_hidden_state
    after = backbone.decoder(**inputs).last_hidden_state
    assert torch.equal(during, before)
    assert torch.equal(after, before)


def implementations(backbone) -> list[str]:
    configs = [backbone.model.config, backbone.text_config, backbone.model.config.vision_config]
    return [config._attn_implementation for config in configs]


def test_the_implementation_is_restored(backbone):
    before = implementations(backbone)
    with AttentionTap(backbone.decoder, {0: None}):
        during = implementations(backbone)
    assert during != before
    assert during[2] == before[2]  # the vision encoder is left alone
    assert implementations(backbone) == before


def test_the_implementation_is_restored_when_the_block_raises(backbone):
    before = implementations(backbone)
    with pytest.raises(KeyError), AttentionTap(backbone.decoder, {0: None}):
        raise KeyError
    assert implementations(backbone) == before


@torch.no_grad()
def test_the_same_layers_can_be_tapped_again(backbone, inputs):
    for _ in range(2):
        with AttentionTap(backbone.decoder, {0: None}) as tap:
            backbone.decoder(**inputs)
        assert len(tap.rows[0]) == 1


@torch.no_grad()
def test_taps_on_different_layers_nest(backbone, inputs, stock):
    before = implementations(backbone)
    with AttentionTap(backbone.decoder, {1: None}) as outer:
        with AttentionTap(backbone.decoder, {2: None}) as inner:
            backbone.decoder(**inputs)
        backbone.decoder(**inputs)
    assert implementations(backbone) == before
    assert (len(outer.rows[1]), len(inner.rows[2])) == (2, 1)
    assert set(outer.rows) == {1}
    assert_rows_equal(outer.rows[1][1].weights, stock[1], inputs)
    assert_rows_equal(inner.weights(2), stock[2], inputs)


def test_one_layer_is_not_tapped_twice_at_once(backbone):
    tapped_twice = pytest.raises(RuntimeError, match=r"layers \[1\] are being tapped already")
    with AttentionTap(backbone.decoder, {1: None}), tapped_twice:
        AttentionTap(backbone.decoder, {1: (0,)}).__enter__()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@torch.no_grad()
def test_broken_attention_names_its_layer(backbone, inputs, value):
    broken = inputs["inputs_embeds"].clone()
    broken[0, -1] = value
    refused = pytest.raises(AttentionError, match="layer 3")
    with refused, AttentionTap(backbone.decoder, {3: (0,)}):
        backbone.decoder(**{**inputs, "inputs_embeds": broken})
    assert not backbone.decoder.config._attn_implementation.startswith("sdrpn")


@torch.no_grad()
def test_the_first_broken_layer_of_several_is_named_at_the_end(backbone, inputs):
    """Of rows that were sound before; what else went wrong in the block comes first."""
    broken = inputs["inputs_embeds"].clone()
    broken[0, -1] = float("nan")
    broken = {**inputs, "inputs_embeds": broken}
    tap = AttentionTap(backbone.decoder, {4: None, 2: (0,)})

    def run(then=None):
        with tap:
            backbone.decoder(**broken)
            backbone.decoder(**inputs)
            if then is not None:
                raise then

    with pytest.raises(AttentionError, match="layer 2"):
        run()
    assert [len(tap.rows[layer]) for layer in (2, 4)] == [2, 2]
    with pytest.raises(KeyError):
        run(then=KeyError())


@torch.no_grad()
def test_broken_rows_are_not_consumed(backbone, inputs):
    broken = {**inputs, "inputs_embeds": torch.full_like(inputs["inputs_embeds"], float("nan"))}
    seen = []
    tap = AttentionTap(backbone.decoder, {2: None}, consume=lambda layer, rows: seen.append(layer))
    with pytest.raises(AttentionError, match="layer 2"), tap:
        backbone.decoder(**broken)
    assert seen == []


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        ({6: None}, "no layer 6 to tap: the decoder has layers 0 to 5"),
        ({-1: None}, "no layer -1"),
        ({2: (0, 4)}, "layer 2 has no head 4: its heads are 0 to 3"),
        ({2: (-1,)}, "no head -1"),
        ({}, "no layer to tap"),
        ([0, 1], r"heads must be a mapping, such as \{2: \[0, 3\], 5: None\} .*, not \[0, 1\]"),
        (None, "heads must be a mapping"),
        ({"0": None}, "layers to tap are whole numbers, not '0'"),
        ({0: 1}, "the heads of layer 0 must be a list of one or more .* for all, not 1"),
        ({0: "all"}, "or None for all, not 'all'"),
        ({0: []}, "a list of one or more whole numbers, or None for all, not \\[\\]"),
        ({0: [1.0]}, r"whole numbers, or None for all, not \[1.0\]"),
    ],
)
def test_layers_and_heads_that_do_not_exist(backbone, heads, message):
    with pytest.raises(ConfigError, match=message):
        AttentionTap(backbone.decoder, heads)


def test_queries_must_be_contiguous(backbone):
    with pytest.raises(ConfigError, match="contiguous"):
        AttentionTap(backbone.decoder, {0: None}, queries=slice(None, None, 2))
    with pytest.raises(ConfigError, match=r"a contiguous slice, such as .*, not 3$"):
        AttentionTap(backbone.decoder, {0: None}, queries=3)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([1, 2], r"must be a tensor of whole numbers, .*torch\.tensor\(\[1, 2\]\), not \[1, 2\]$"),
        (torch.tensor([1.0]), "a tensor of whole numbers"),
        (torch.tensor([True]), "a tensor of whole numbers"),
        (torch.tensor(1), "a tensor of whole numbers"),
        (torch.tensor([3, -1]), "keys count from 0, and one is -1"),
    ],
)
def test_keys_are_positions(backbone, keys, message):
    with pytest.raises(ConfigError, match=message):
        AttentionTap(backbone.decoder, {0: None}, keys=keys)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (torch.tensor([10_000]), "no key 10000: the sequence has keys 0 to"),
        (torch.tensor([[0], [10_000]]), "no key 10000: the sequence has keys 0 to"),
        (torch.tensor([[0]]), "keys are given for 1 sequences, and 2 were run"),
    ],
)
@torch.no_grad()
def test_keys_lie_in_the_sequence(backbone, inputs, keys, message):
    with (
        pytest.raises(ConfigError, match=message),
        AttentionTap(backbone.decoder, {0: None}, keys=keys),
    ):
        backbone.decoder(**inputs)


@torch.no_grad()
def test_calls_with_other_numbers_of_keys_are_not_joined(backbone, inputs):
    length = inputs["inputs_embeds"].shape[1]
    with AttentionTap(backbone.decoder, {0: None}, queries=slice(length, None)) as tap:
        backbone.model.generate(**inputs, max_new_tokens=4, min_new_tokens=4)
    assert len(tap.rows[0]) > 1
    with pytest.raises(ConfigError, match=r"layer 0 .* different numbers of keys: give keys= to"):
        tap.weights(0)


@torch.no_grad()
def test_asking_for_what_was_not_collected_is_refused(backbone, inputs):
    with AttentionTap(backbone.decoder, {1: None}, queries=slice(10_000, None)) as tap:
        backbone.decoder(**inputs)
    with pytest.raises(ConfigError, match=r"layer 0 is not tapped; tapped: \[1\]"):
        tap.weights(0)
    with pytest.raises(ConfigError, match="no wanted attention row was computed in layer 1"):
        tap.weights(1)


@torch.no_grad()
def test_without_a_mask_the_rows_are_causal(backbone, eager):
    embeds = inputs_of(backbone)["inputs_embeds"][:, -12:]
    (expected, *_) = eager.decoder(inputs_embeds=embeds, output_attentions=True).attentions
    with AttentionTap(backbone.decoder, {0: None}) as tap:
        backbone.decoder(inputs_embeds=embeds)
    torch.testing.assert_close(tap.weights(0), expected, **CLOSE)


class _LargestCopy(TorchDispatchMode):
    """Notes how many numbers the largest copy in single precision holds."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and found.dtype == torch.float32:
            self.largest = max(self.largest, found.numel())
        return found


@pytest.mark.parametrize("heads", [None, [0, 3]], ids=["all heads", "some heads"])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_keys_are_not_all_copied_in_single_precision(heads, key_heads):
    """They are all there is of the past, and would be copied at each token."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 1, 8, generator=generator).bfloat16()
    key = torch.randn(2, key_heads, 50, 8, generator=generator).bfloat16()
    with _LargestCopy() as copies:
        found = head_products(query, key, heads)
    assert copies.largest == key[:, 0].numel()
    repeated = key.repeat_interleave(4 // key_heads, dim=1)
    expected = query.float() @ repeated.float().transpose(2, 3)
    torch.testing.assert_close(found, expected if heads is None else expected[:, heads])


@pytest.mark.cuda
@torch.no_grad()
def test_rows_under_flash_attention(kv_heads):
    pytest.importorskip("flash_attn")
    backbones = {
        name: tiny_llava(attn_implementation=name, num_key_value_heads=kv_heads)
        for name in ("eager", "flash_attention_2")
    }
    rows = {}
    for name, backbone in backbones.items():
        backbone.model.to("cuda", torch.bfloat16)
        inputs = inputs_of(backbone)
        with AttentionTap(backbone.decoder, {3: None}, queries=slice(-6, None)) as tap:
            backbone.decoder(**inputs)
        rows[name] = tap.weights(3)
    torch.testing.assert_close(rows["flash_attention_2"], rows["eager"], rtol=0.1, atol=2e-2)


def test_gradients_are_those_of_autograd_by_stock_eager_weights(backbone, eager):
    """Whatever ran: of the last rows, of chosen heads and columns, in a padded batch."""
    layer, heads = 2, (0, 3)
    block = prompt_block(backbone, backbone.encode(QUESTIONS))
    keys = torch.tensor(block.starts)[:, None] + torch.tensor([1, 5, 9])
    inputs = block.model_inputs()
    weight = torch.randn(eager.hidden_size, generator=torch.Generator().manual_seed(0))
    with torch.enable_grad():
        output = eager.decoder(
            **{**inputs, "inputs_embeds": block.embeds.requires_grad_()}, output_attentions=True
        )
        scalar = (output.last_hidden_state[:, -1] @ weight / 10).tanh().sum()
        (whole,) = torch.autograd.grad(scalar, output.attentions[layer])
    tap = AttentionTap(
        backbone.decoder, {layer: heads}, queries=slice(block.length - 4, None), keys=keys,
        differentiable=True,
    )  # fmt: skip
    with tap, torch.enable_grad():
        states = backbone.decoder(**block.model_inputs()).last_hidden_state
        found = tap.gradients((states[:, -1] @ weight / 10).tanh().sum())
    chosen = whole[:, heads, -4:]
    index = keys[:, None, None].expand(-1, *chosen.shape[1:3], -1)
    expected = chosen.gather(3, index)
    assert found.shape == expected.shape == (2, 2, 4, 3)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_only_one_layer_that_has_run_can_be_differentiated(backbone):
    with pytest.raises(ConfigError, match=r"only one layer can be differentiated, not \[1, 2\]"):
        AttentionTap(backbone.decoder, {1: None, 2: None}, differentiable=True)
    with (
        AttentionTap(backbone.decoder, {1: None}, differentiable=True) as tap,
        pytest.raises(ConfigError, match="no differentiable attention row"),
    ):
        tap.gradients(torch.zeros(()))
