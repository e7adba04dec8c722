"""A model as OpenVINO graphs, in full and in eight bits."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from one_line_parser import reason_of
from serving.bin_counter import Preparation, import_openvino, photos_to_probabilities

# What holds a network's weights, and most of its arithmetic.
WEIGHTED = {"MatMul", "Convolution", "GroupConvolution"}
ATTENTION = {"ScaledDotProductAttention", "Softmax"}


def converted(model_dir: Path, preparation: Preparation) -> list[Any]:
    """Return the model as OpenVINO graphs, those that OpenVinoNetwork takes.

    Raises: ValueError: it cannot be one.
    """
    import torch

    openvino = import_openvino()
    height, width = preparation.size
    example = torch.zeros((2, height, width, 3), dtype=torch.uint8)
    module = photos_to_probabilities(model_dir, preparation)
    with warnings.catch_warnings(), torch.no_grad():
        # Tracing warns of each size that it takes as fixed; all but the batch's are.
        warnings.simplefilter("ignore")
        logging.getLogger("nncf").setLevel(logging.ERROR)
        # LeViT keeps what it computes the first time, which a trace cannot.
        views = module(example)[module.num_told :]
        try:
            graphs = [_traced(module, (example,), openvino.Type.u8)]
            for view in views:
                graphs.append(_traced(module.changes, (view, view), openvino.Type.f32))
            return graphs
        except Exception as error:  # some networks do what a trace or OpenVINO does not know
            raise ValueError(
                f"OpenVINO cannot take this network ({reason_of(error)}): nothing was written, "
                "and the safetensors serve as they are."
            ) from error


def _traced(module: Any, examples: tuple[Any, ...], kind: Any) -> Any:
    """Return a torch module as a graph for any number of rows."""
    openvino = import_openvino()
    shapes = [openvino.PartialShape([-1, *example.shape[1:]]) for example in examples]
    return openvino.convert_model(
        module,
        example_input=examples[0] if len(examples) == 1 else examples,
        input=[(shape, kind) for shape in shapes],
    )


def quantized(graph: Any, photos: Sequence[np.ndarray]) -> Any:
    """Return a graph of photos with weights and activations in eight bits.

    Its first layer and its last ones stay as they are: they see and say the finest differences,
    and are a small part of the work.

    Args:
        photos: what ranges of activations are measured on, uint8 (1, height, width, 3) each.

    Raises: ImportError: NNCF is not installed. ValueError: it cannot quantize this network.
    """
    import_openvino()  # without its reports to its makers, to which NNCF has some of its own
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    # Beside the softmax of the answers.
    has_attention = sum(node.get_type_name() in ATTENTION for node in graph.get_ops()) > 1
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # progress bars
            return nncf.quantize(
                graph.clone(),
                nncf.Dataset(photos),
                subset_size=len(photos),
                # Activations of GELU and its like are not symmetric.
                preset=nncf.QuantizationPreset.MIXED,
                model_type=nncf.ModelType.TRANSFORMER if has_attention else None,
                # A convolution's mean error is put right: 0.5 points of a ResNet34's accuracy. A
                # ViT loses by it.
                fast_bias_correction=has_attention,
                ignored_scope=nncf.IgnoredScope(names=sorted(_outermost(graph)), validate=False),
            )
    except Exception as error:  # NNCF has many, of its own and of its libraries
        raise ValueError(f"NNCF cannot quantize this network ({reason_of(error)})") from error


def _outermost(graph: Any) -> set[str]:
    """Return the names of the weighted layers nearest to the photos, and nearest to the answers."""

    def after(node: Any) -> Iterable[Any]:
        return (to.get_node() for port in node.outputs() for to in port.get_target_inputs())

    def before(node: Any) -> Iterable[Any]:
        return (port.get_source_output().get_node() for port in node.inputs())

    return _nearest(graph.get_parameters(), after) | _nearest(graph.get_results(), before)


def _nearest(nodes: Sequence[Any], beyond: Callable[[Any], Iterable[Any]]) -> set[str]:
    found, seen, waiting = set[str](), set[str](), [*nodes]
    while waiting:
        node = waiting.pop()
        name = node.get_friendly_name()
        if node.get_type_name() in WEIGHTED:
            found.add(name)
        elif name not in seen:
            waiting += beyond(node)
        seen.add(name)
    return found
