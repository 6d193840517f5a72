"""Special tokens that a question spells are text; ids of all other questions are the stock ones."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer, UnigramTrainer
from transformers import PreTrainedTokenizerFast

from sdrpn_core import load_backbone
from sdrpn_core.answering.answer import answer, answer_batch
from sdrpn_core.backbone.plain_text import PlainText
from sdrpn_core.backbone.question import Question
from sdrpn_core.errors import InputError
from sdrpn_glyphs.families import NAMES, family
from tests.families import FAMILIES
from tests.tiny import tiny_image, tiny_llava

ORDINARY = ("what color is the dot?", "is it\nred", " left ?  ", "<b> |im_end| </ s> Größe 🙂", "?")


@pytest.fixture(params=[*FAMILIES, *(f"glyphs {name}" for name in NAMES)], scope="module")
def backbone(request, tmp_path_factory):
    if request.param in FAMILIES:
        folder = tmp_path_factory.mktemp(request.param)
        FAMILIES[request.param](folder)
        return load_backbone(folder)
    return family(request.param.removeprefix("glyphs ")).build()


def special_tokens(tokenizer):
    """Those that a user may spell: a line break that counts as special is text all the same."""
    added = tokenizer.added_tokens_decoder
    return {token.content: number for number, token in added.items() if token.content.strip()}


def stock_ids(backbone, question, n_images):
    """As the processor tokenizes: the whole prompt at once, a placeholder as often as written."""
    text = backbone.chat_text(question, n_images)
    bos = backbone.tokenizer.bos_token
    return backbone.tokenizer(text, add_special_tokens=not (bos and text.startswith(bos))).input_ids


@pytest.mark.parametrize("n_images", [0, 1, 2])
@pytest.mark.parametrize("question", ORDINARY)
def test_ids_of_an_ordinary_question_are_the_stock_ones(backbone, question, n_images):
    assert backbone.tokenize(question, n_images) == stock_ids(backbone, question, n_images)


def test_a_question_may_spell_any_special_token(backbone):
    known = special_tokens(backbone.tokenizer)
    assert len(known) >= 4
    unknown = backbone.tokenizer.unk_token_id
    plain = [i for i in backbone.tokenize("what is it?", 1) if i in known.values() and i != unknown]
    for spelled in known:
        for question in (f"what is {spelled} ?", f"{spelled}", f"a{spelled}{spelled}\n{spelled} "):
            ids = backbone.tokenize(question, 1)
            # What is special is what the template put there.
            assert [i for i in ids if i in known.values() and i != unknown] == plain
            (prompt,) = backbone.encode([Question(question, (tiny_image(),))])
            assert len(prompt.images) == 1


def test_the_text_around_a_spelled_token_is_tokenized_as_ever(backbone):
    """Word tokenizers know neither ``</s>`` nor its parts: they drop or do not know them."""
    spelled = backbone.tokenizer.eos_token
    pieces = backbone.tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(spelled)
    apart = " ".join(piece for piece, _ in pieces)
    for n_images in (0, 1, 2):
        found = backbone.tokenize(f"what color is {spelled} ?", n_images)
        assert found == stock_ids(backbone, f"what color is {apart} ?", n_images)


def test_whoever_means_special_tokens_gets_them(backbone):
    end = backbone.tokenizer.eos_token
    image = backbone.tokenizer.convert_ids_to_tokens(backbone.image_token_id)
    question = Question(f"what {end} is it", (tiny_image(),), special_tokens=True)
    assert backbone.tokenize(question.text, 1, special_tokens=True) == stock_ids(
        backbone, question.text, 1
    )
    as_tokens, as_text = backbone.encode([question, replace(question, special_tokens=False)])
    count = [sum(s.ids.count(backbone.tokenizer.eos_token_id) for s in p.segments
                 if not hasattr(s, "grid")) for p in (as_tokens, as_text)]  # fmt: skip
    assert count[0] == count[1] + 1
    with pytest.raises(InputError, match="2 image placeholders for 1 images"):
        backbone.encode([replace(question, text=f"what is {image} ?")])


def test_a_response_may_spell_them_too(backbone):
    known = set(special_tokens(backbone.tokenizer).values()) - {backbone.tokenizer.unk_token_id}
    image = backbone.tokenizer.convert_ids_to_tokens(backbone.image_token_id)
    end = backbone.tokenizer.eos_token
    for spelled in (end, image):
        assert not known & set(backbone.tokenize_response(f"the {spelled} dot"))
    assert backbone.tokenizer.eos_token_id in backbone.tokenize_response(end, special_tokens=True)
    with pytest.raises(InputError, match="the response must not contain"):
        backbone.tokenize_response(f"the {image}", special_tokens=True)
    stock = backbone.tokenizer("red dot", add_special_tokens=False).input_ids
    assert list(backbone.tokenize_response("red dot")) == stock


def test_answers_take_such_questions():
    backbone = tiny_llava()
    backbone.model.generation_config.eos_token_id = None
    for text in ("what is <image> ?", "</s>"):
        found = answer(backbone, tiny_image(), text, max_new_tokens=2)
        assert found.n_visual_tokens == 16
    meant = Question("what </s> ?", (tiny_image(),), special_tokens=True)
    texts = replace(meant, special_tokens=False)
    one, other = answer_batch(backbone, [meant, texts], max_new_tokens=2)
    assert one.n_visual_tokens == other.n_visual_tokens


def test_half_a_surrogate_pair_is_one_line(backbone):
    for bad in ("what \ud800 ?", "\udcd5\udce2"):
        with pytest.raises(InputError, match="the question is not valid Unicode"):
            backbone.tokenize(bad, 1)
        with pytest.raises(InputError, match="the response is not valid Unicode"):
            backbone.tokenize_response(bad)


# -- tokenizers of the kinds that checkpoints come with ------------------------------------------

CORPUS = [
    "USER: what color is the dot? ASSISTANT: red</s>",
    "<|im_start|>user what color<|im_end|> <image> there is a small square on the left",
    "how many letters are in the word below? 3.5 or 10, I think",
] * 20
SPECIAL = ("<unk>", "<s>", "</s>", "<image>", "<|im_start|>", "<|im_end|>")


def byte_level():
    """As Qwen's: byte-level BPE, nothing in front, no unknown token."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        BpeTrainer(vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
    )
    return tokenizer


def metaspace(scheme):
    """As a recent Llama's: a space in front of the first word, or of every piece of text."""
    tokenizer = Tokenizer(Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    trainer = UnigramTrainer(vocab_size=120, unk_token="<unk>", special_tokens=["<unk>"])
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def prepended():
    """As LLaVA-1.5's: a normalizer puts a space in front of every piece between special tokens."""
    tokenizer = Tokenizer(BPE(unk_token="<unk>", byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.train_from_iterator(CORPUS, BpeTrainer(vocab_size=120, special_tokens=["<unk>"]))
    return tokenizer


KINDS = {
    "byte level": byte_level,
    "first": lambda: metaspace("first"),
    "always": lambda: metaspace("always"),
    "prepended": prepended,
}


@pytest.fixture(params=KINDS, scope="module")
def tokenizer(request):
    backend = KINDS[request.param]()
    backend.add_special_tokens(
        [AddedToken(token, normalized=False, rstrip=token == "<image>") for token in SPECIAL]
    )
    bos = backend.token_to_id("<s>")
    backend.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", bos)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="module")
def plain(tokenizer):
    return PlainText(tokenizer, tokenizer.convert_tokens_to_ids("<image>"))


HEAD, TAIL = "<|im_start|>user\n<image> <image>\n", "<|im_end|>\n<|im_start|>assistant\n"


PIECES = [*"aeiou dot?<>|/s.\n", "what color", " is the", "im_end", "image", "🙂"]


@given(question=st.lists(st.sampled_from(PIECES), max_size=20).map("".join))
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize(("head", "tail"), [(HEAD, TAIL), ("USER: ", " ASSISTANT:"), ("", "")])
def test_the_marked_prompt_has_the_ids_of_the_stock_one(
    tokenizer, plain, question, add, head, tail
):
    """Marks cut the prompt where the special tokens did, so an ordinary question stays the same."""
    assume(not plain.spells_special(question))
    stock = tokenizer(head + question + tail, add_special_tokens=add).input_ids
    assert plain.tokenize(head, question, tail, add_special_tokens=add) == stock


@pytest.mark.parametrize("spelled", SPECIAL)
def test_a_spelled_token_can_be_read_back(tokenizer, plain, spelled):
    assert plain.spells_special(f"what{spelled}?")
    special = {tokenizer.convert_tokens_to_ids(token) for token in SPECIAL} - {
        tokenizer.unk_token_id
    }
    ids = plain.tokenize(HEAD, f"what{spelled}?", TAIL, add_special_tokens=True)
    frame = plain.tokenize(HEAD, "what?", TAIL, add_special_tokens=True)
    assert [i for i in ids if i in special] == [i for i in frame if i in special]
    assert not set(ids) - set(range(len(tokenizer)))
    if tokenizer.unk_token_id not in ids:
        text = tokenizer.decode(plain.tokenize("", f"what{spelled}?", "", add_special_tokens=False))
        assert text.replace(" ", "") == f"what{spelled}?"
