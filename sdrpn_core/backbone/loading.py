"""Loading a backbone: from a local folder, a hub id, or a model that is loaded already."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel
from transformers.utils import CONFIG_NAME
from transformers.utils import logging as transformers_logging

from sdrpn_core.backbone.decoder import decoder_layers
from sdrpn_core.backbone.served import check_served
from sdrpn_core.backbone.source import is_source
from sdrpn_core.distributed.processes import processes, usable_device
from sdrpn_core.errors import ConfigError, InputError, MissingExtraError, UnknownNameError
from sdrpn_core.plugins.manager import get_plugins
from sdrpn_core.util.json_files import read_json_object
from sdrpn_core.util.whole_numbers import check_count

if TYPE_CHECKING:
    from sdrpn_core.backbone.adapter import Backbone

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

#: Arguments of ``from_pretrained`` about the Hub: config, model and processor all get them.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token")

#: Bytes; the alignment of memory that torch allocates itself.
_ALIGNMENT = 64


def load_backbone(
    source: str | Path | PreTrainedModel,
    *,
    processor: Any = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: Any = None,
    attn_implementation: str | None = None,
    quantization_config: Any = None,
    revision: str | None = None,
    n_layers: int | None = None,
    **model_kwargs: Any,
) -> Backbone:
    """Load a model and wrap it in its family's adapter, found by ``config.model_type``.

    Args:
        source: local folder, hub id, or loaded model.
        processor: the model's processor; loaded from ``source`` by default.
        dtype: parameter dtype, or its name. Default: what the checkpoint says on an accelerator,
            float32 on a CPU, where half precision is slow.
        device: where to put the model; default: CUDA if there is one, unless ``device_map`` is
            given.
        device_map: passed to transformers, for models spread over devices.
        attn_implementation: ``sdpa``, ``eager``, ``flash_attention_2`` ...
        quantization_config: passed to transformers.
        revision: hub revision.
        n_layers: load no more than the first this many decoder layers, and no vocabulary head; of
            safetensors the rest is never read. Such a backbone gives features, trains an RPN and
            predicts RoI maps, and refuses to answer. From L on the whole model is loaded.
        model_kwargs: anything else that ``from_pretrained`` takes, such as ``local_files_only`` or
            ``token``. Code from the Hub is not run unless it says so.

    Raises:
        InputError: neither a name nor a loaded model, no model there, or its files are broken or
            incomplete.
        ConfigError: unknown dtype, no such device here, several adapters serve the model type, its
            decoder cannot be served exactly (:func:`~sdrpn_core.backbone.served.check_served`), or
            ``n_layers`` is not positive or given with a loaded model.
        UnknownNameError: no adapter serves its model type.
        MissingExtraError: flash-attention is asked for and not installed.
    """
    _check_attention(attn_implementation)
    if n_layers is not None:
        check_count(n_layers, "n_layers")
    if isinstance(source, PreTrainedModel):
        if n_layers is not None:
            raise ConfigError("n_layers chooses what is loaded, but the model is loaded already")
        return _wrap_loaded(source, processor, attn_implementation, device, revision)
    name = _name_of(source)
    shared = _shared_options(revision, trust=model_kwargs.pop("trust_remote_code", False))
    shared |= {key: model_kwargs.pop(key) for key in HUB_OPTIONS if key in model_kwargs}
    config, adapter = _find(name, shared)
    if device is not None:
        device = usable_device(device)
    elif device_map is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype is None:
        on_cpu = device is not None and torch.device(device).type == "cpu"
        dtype = torch.float32 if on_cpu else "auto"
    optional = {
        "device_map": device_map,
        "attn_implementation": attn_implementation,
        "quantization_config": quantization_config,
    }
    options = {
        "dtype": _dtype(dtype),
        **{key: value for key, value in optional.items() if value is not None},
        **model_kwargs,
    }
    if n_layers is not None and n_layers >= config.get_text_config().num_hidden_layers:
        n_layers = None
    with _loading(name):
        if n_layers is None:
            model = _load_model(name, config, **shared, **options)
        else:
            model = _load_first_layers(name, config, n_layers, **shared, **options)
        if processor is None:
            processor = AutoProcessor.from_pretrained(name, **shared)
    if device is not None and quantization_config is None:
        _move(model, device)
    _align(model)
    return adapter(model, processor, name=name, revision=revision)


def load_outline(source: str | Path, *, revision: str | None = None) -> Backbone:
    """A backbone without weights and processor: what its config alone decides.

    Its parameters lie on the meta device, where they take no memory. It knows its preset and its
    numbers of layers and heads, which is what it takes to choose how much of it to load. Code from
    the Hub is not run.

    Args:
        source: local folder or hub id.
        revision: hub revision.

    Raises:
        InputError: no model there.
        ConfigError: several adapters serve the model type, or its decoder cannot be served.
        UnknownNameError: no adapter serves its model type.
    """
    name = _name_of(source)
    config, adapter = _find(name, _shared_options(revision, trust=False))
    with _loading(name), torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    return adapter(model, None, name=name, revision=revision)


def find_backbone(
    source: str | Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    **hub_options: Any,
) -> type[Backbone]:
    """The adapter that will serve a model, from its config alone: what can be said in a second.

    Args:
        source: local folder or hub id.
        revision: hub revision.
        trust_remote_code: whether code from the Hub may be run.
        hub_options: those of ``HUB_OPTIONS``.

    Raises:
        InputError: no model there.
        ConfigError: several adapters serve the model type, or its decoder cannot be served.
        UnknownNameError: no adapter serves its model type.
    """
    shared = _shared_options(revision, trust=trust_remote_code)
    return _find(_name_of(source), {**shared, **hub_options})[1]


def _name_of(source: object) -> str:
    """The folder or Hub id that was given."""
    if not is_source(source):
        raise InputError(
            f"the model must be a local folder, a Hub id or a loaded model, not {source!r}"
        )
    return str(source)


def _shared_options(revision: str | None, trust: bool) -> dict[str, Any]:
    """What config, model and processor are all loaded with."""
    # Said outright: left open, transformers asks on the terminal.
    shared: dict[str, Any] = {"trust_remote_code": trust}
    if revision:
        shared["revision"] = revision
    return shared


def _find(name: str, shared: dict[str, Any]) -> tuple[Any, type[Backbone]]:
    """A model's config, and the adapter that serves it."""
    if (Path(name).is_absolute() or name.startswith(".")) and not Path(name).is_dir():
        raise InputError(f"cannot load the model {name}: no such folder")
    with _loading(name):
        _check_is_no_rpn(Path(name) / CONFIG_NAME)
        config = AutoConfig.from_pretrained(name, **shared)
    check_served(config)
    return config, find_adapter(config.model_type)


def _check_is_no_rpn(path: Path) -> None:
    """Say so if an RPN was given in the place of its backbone: both folders look alike."""
    if path.is_file():
        values = read_json_object(path, InputError)
        if "model_type" not in values and {"branch", "head", "backbone"} <= values.keys():
            raise InputError(
                "the folder holds an RPN: give its model in this place, and the RPN apart (--rpn)"
            )


def _load_model(name: str, config: Any, **options: Any) -> PreTrainedModel:
    loaded: Any = AutoModelForImageTextToText.from_pretrained(
        name, config=config, output_loading_info=True, **options
    )
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        # They would be random numbers.
        raise InputError(
            f"the checkpoint lacks {len(missing)} tensors, such as {missing[0]}: download it "
            "again, or convert it to the stock class"
        )
    return model


def _load_first_layers(name: str, config: Any, n_layers: int, **options: Any) -> PreTrainedModel:
    """Load the first decoder layers; the config still says how many the whole model has.

    A model that is built with fewer layers finds tensors in the checkpoint that it has no place
    for, and transformers leaves those unread. Every decoder *builds* as many layers as its config
    says, also where it *runs* as many as there are.
    """
    shortened = copy.deepcopy(config)
    whole = shortened.get_text_config().num_hidden_layers
    shortened.get_text_config().num_hidden_layers = n_layers
    with _without_warnings():  # of the tensors that are left unread
        model = _load_model(name, shortened, **options)
    found = len(decoder_layers(model.get_decoder()))
    if found != n_layers:
        raise InputError(
            f"{type(model).__name__} cannot be loaded in part: it has {found} decoder layers where "
            f"its config asks for {n_layers}"
        )
    for part in (model.config.get_text_config(), model.get_decoder().config):
        part.num_hidden_layers = whole
    if model.get_output_embeddings() is not None:
        model.set_output_embeddings(nn.Identity())
    return model


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep transformers quiet; what is wrong raises an error all the same."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """Turn what transformers raises on bad input into one line that names the model."""
    try:
        yield
    except Exception as error:  # files that somebody edited make it raise anything
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"cannot load the model {name}: {lines[0]}") from error


def find_adapter(model_type: str) -> type[Backbone]:
    """The registered adapter that serves a ``config.model_type``.

    Raises:
        UnknownNameError: there is none; lists the model types that are served.
        ConfigError: several adapters claim it.
    """
    backbones = get_plugins().backbones
    serving = {
        entry.name: tuple(entry.metadata.get("model_types", ())) for entry in backbones.entries()
    }
    found = [name for name, types in serving.items() if model_type in types]
    if not found:
        known = {model_type for types in serving.values() for model_type in types}
        raise UnknownNameError("model type", model_type, known)
    if len(found) > 1:
        raise ConfigError(
            f"model type {model_type!r} is served by several plugins: {', '.join(found)}; "
            "disable all but one with SDRPN_PLUGINS"
        )
    return backbones.get(found[0])


def _wrap_loaded(
    model: PreTrainedModel,
    processor: Any,
    attn_implementation: str | None,
    device: str | torch.device | None,
    revision: str | None,
) -> Backbone:
    check_served(model.config)
    adapter = find_adapter(model.config.model_type)
    if processor is None:
        name = model.name_or_path
        if not name:
            raise InputError(
                "a model that was not loaded from a folder or the Hub needs a processor"
            )
        with _loading(name):
            processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
    if attn_implementation is not None:
        model.set_attn_implementation(attn_implementation)
    if device is not None:
        _move(model, device)
    return adapter(model, processor, revision=revision)


def _move(model: nn.Module, device: str | torch.device) -> None:
    # Typed as a plain module, since PreTrainedModel hides the signature of Module.to.
    model.to(device)


def _check_attention(implementation: str | None) -> None:
    wants_flash = implementation is not None and implementation.startswith("flash_attention")
    if wants_flash and importlib.util.find_spec("flash_attn") is None:
        raise MissingExtraError(f"attn_implementation={implementation!r}", "flash-attn")


def _align(model: PreTrainedModel) -> None:
    """Move weights on a CPU to aligned memory.

    Weights mapped from a file lie at any address, and small matrix products round differently from
    one address to another: without this, two processes would not agree on the last bit.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % _ALIGNMENT:
            tensor.data = tensor.data.clone()


def _dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    found = getattr(torch, dtype, None)
    if found not in _DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}: use float32, bfloat16, float16 or auto")
    return found


def load_for_process(model: str, options: dict[str, Any]) -> Backbone:
    """Load a model on the device of this process, of which each has its own.

    Args:
        model: local folder or hub id.
        options: arguments of ``load_backbone``.
    """
    state = processes(options.get("device"))
    return load_backbone(model, **{"device": str(state.device), **options})
