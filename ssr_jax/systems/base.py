"""The interface of a system: its parts, outputs, options and training stages.

A system is a folder and a line in `systems/__init__.py`; the rest of the library uses it only through these classes.
"""

from collections.abc import Callable, Mapping
import dataclasses
import importlib
from typing import Any

import flax.struct

from ssr_jax.types import SSRError

Tree = Any


@dataclasses.dataclass(frozen=True)
class Part:
  """A network of a system that is trained, stored and loaded separately.

    Attributes:
      families: {family: 'module:Class'}; a config without the field 'family' means the first.
      example: module -> arguments that initialise it, zeros of small sizes; shapes of variables do not depend on them.
  <<<<<<< HEAD
      optional: prefixes of variables, such as 'params/heads/', that only training uses; a file may leave them out.
      adjustable: attributes of the module that may differ from those that its weights were trained with, such as a
        working resolution.
      groups: {label: regular expression of variables, matched from their beginning}, which `ssr info` counts apart.
  =======
      optional: prefixes of variables that only training uses, such as 'params/heads/'; a file may lack them.
  >>>>>>> types
  """

  families: Mapping[str, str]
  example: Callable[[Any], tuple[Any, ...]]
  optional: tuple[str, ...] = ()
  adjustable: tuple[str, ...] = ()
  groups: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def build(self, name: str, family: str | None = None, **config: Any) -> Any:
    """Makes the Flax module.

    Args:
      name: of the part, for messages.
      family: which network; None takes the first.
      **config: the module's attributes; lists become tuples, so that values read from JSON work.

    Raises:
      SSRError: an unknown family or attribute; the message lists the known ones.
    """
    family = next(iter(self.families)) if family is None else family
    if family not in self.families:
      raise SSRError(f'{name}: unknown family {family!r}; known: {", ".join(self.families)}')
    module, _, cls = self.families[family].partition(':')
    cls = getattr(importlib.import_module(module), cls)
    known = [field.name for field in dataclasses.fields(cls) if field.name not in ('parent', 'name')]
    unknown = [field for field in config if field not in known]
    if unknown:
      raise SSRError(f'{name}: unknown field {unknown[0]!r}; known: {", ".join(known)}')
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})


KINDS = {
  'image': '[H, W, 3] in [0, 1]',
  'depth': '[H, W, 1] in [0, 1]',
  'kernels': '[h, w, k*k]',
  'map': '[H, W, c]',
}
"""{kind of an output: its shape and range}."""


@dataclasses.dataclass(frozen=True)
class Output:
  """An output of a system.

    Attributes:
      name: attribute of the result, such as 'depth'.
  <<<<<<< HEAD
      kind: one of `KINDS`.
      label: what a picture of it is called.
  =======
      kind: 'image' [H, W, 3] in [0, 1], 'depth' [H, W, 1] in [0, 1], 'kernels' [h, w, k*k], or 'map' [H, W, c].
      label: title of its picture.
  >>>>>>> types
  """

  name: str
  kind: str
  label: str

  @property
  def at_lr(self) -> bool:
    """Whether it has the size of the LR image rather than of the result."""
    return self.kind == 'kernels'


@dataclasses.dataclass(frozen=True)
class Variant:
  """One of the images that a system makes of an LR image, for an evaluation to score.

  Attributes:
    output: the output of the kind 'image' that it is.
    options: those of `sample` that it is made with, whatever else is asked for.
  """

  output: str
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@flax.struct.dataclass
class StepContext:
  """Inputs of a stage's functions besides the batch.

  Attributes:
    params: {part: parameters} of the trained parts; a critic is a part that is not exported.
    stats: {part: batch statistics} of the trained parts.
    frozen: {part: variables} of the parts that the stage needs.
    constants: {part: constants} of the trained parts.
    key: PRNG key of this step.
    step: number of steps done.
  """

  params: Tree
  stats: Tree
  frozen: Tree
  constants: Tree
  key: Any = None
  step: Any = 0

  @property
  def variables(self) -> dict[str, Tree]:
    """{part: Flax variables} of all parts, trained and frozen."""
    trained = {
      part: {'params': params, 'batch_stats': self.stats.get(part, {}), 'constants': self.constants.get(part, {})}
      for part, params in self.params.items()
    }
    return {**self.frozen, **trained}


@dataclasses.dataclass(frozen=True)
class Inherited:
  """What a stage takes over from the model that its frozen parts come from.

  Attributes:
    name: the model's, for messages; None if there is no model and the parts are the config's.
    parts: {part: fields of its module}.
    sections: its model.json.
  """

  name: str | None
  parts: Mapping[str, Mapping[str, Any]]
  sections: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


class Stage:
  """A training stage: the parts it trains, its loss, and the validation metric that ranks weights.

  A stage is made from a config alone. Its methods are pure functions of a `StepContext` and a batch; the trainer
  compiles them.

  Attributes:
    trains: the trained parts that are exported.
    needs: the frozen parts.
    metric: name of the validation scalar that ranks weights.
    higher_is_better: its direction.
    depth: use of true depth: 'needs' (from rendered scenes if the source has none), 'uses' (where available) or 'none'.
    fixed: regular expressions of parameters that are not trained, in addition to `config.train.frozen`.
    sections: sections of model.json that the exported parts need.
    measures: {part: config fields that `export` measures}.
    origin: origin of the weights of a run without `config.init_from`, for messages.
    modules: {part: module} of the trained and the frozen parts.
  """

  trains: tuple[str, ...] = ()
  needs: tuple[str, ...] = ()
  metric: str = ''
  higher_is_better: bool = False
  depth: str = 'none'
  fixed: tuple[str, ...] = ()
  sections: Mapping[str, Mapping[str, Any]] = {}
  measures: Mapping[str, tuple[str, ...]] = {}
  origin: str = 'scratch'
  modules: Mapping[str, Any]

  def __init__(self, config: Any, inherited: Inherited):
    """Builds the modules.

    Args:
      config: of the run.
      inherited: the model that the frozen parts come from.
    """
    raise NotImplementedError

  def init(self, key: Any) -> tuple[Tree, Tree, Tree]:
    """Fresh variables: (params, batch statistics, constants), {part: tree} each."""
    raise NotImplementedError

  def prepare(self, ctx: StepContext, batch: Tree, inherited: bool) -> tuple[Tree, Tree]:
    """Adjusts (params, stats) before the first step of a new run; not called when a run resumes.

    Args:
      ctx: with the fresh or loaded variables.
      batch: the first batch.
      inherited: whether the weights were loaded (`config.init_from`).
    """
    del batch, inherited
    return ctx.params, ctx.stats

  def check_sections(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
    """Checks that weights of a model with these sections of model.json can be trained on by this stage.

    Shapes do not tell what a UNet predicts, or on which schedule.

    Raises:
      SSRError: the config would read the weights otherwise than they were trained; the message says which field.
    """

  def loss(self, ctx: StepContext, batch: Tree) -> tuple[Any, tuple[dict[str, Any], Tree]]:
    """(loss, (scalars to log, new batch statistics)), means over the batch."""
    raise NotImplementedError

  def validate(self, ctx: StepContext, batch: Tree) -> dict[str, Any]:
    """Scalars, means over a batch of held-out images; `metric` is among them."""
    raise NotImplementedError

  def figures(self, ctx: StepContext, batch: Tree) -> dict[str, Any]:
    """{name: images [b, H, W, 3]}, to be shown side by side."""
    raise NotImplementedError

  def export(self, ctx: StepContext, batch: Tree) -> dict[str, dict[str, Any]]:
    """{part: {config field: value}}, measured on held-out images."""
    del ctx, batch
    return {}


@flax.struct.dataclass
class Window:
  """Position of a tile in its image. A tile may extend past the image's bottom and right, where it is padded.

  Attributes:
    size: (h, w) of the whole image in LR pixels, int32 [2].
    origin: (y, x) of the tile's top left corner in LR pixels, int32 [2].
  """

  size: Any
  origin: Any


class System:
  """Interface of a super-resolution method.

  <<<<<<< HEAD
    `prepare`, `advance` and `restore` are pure and compiled; `plan` and `finish` run on the host. `plan` gives a frozen,
    hashable object that has at least the attributes `scale`, `parts` (those that it needs, in the order in which they
    run) and one for each option, with the value that is used.
  =======
    `prepare`, `advance` and `restore` are pure and are compiled; `plan` and `finish` run on the host. `plan` returns a
    frozen, hashable object with at least the attributes `steps` (diffusion steps, 0 for none), `scale` and `parts` (the
    parts that it needs, in the order in which they run).
  >>>>>>> types

    Attributes:
      name: its name in configs and model files.
      parts: {name: Part}.
      outputs: its outputs; the last one is the resulting image.
      sections: defaults of its sections of model.json.
      stages: {name: Stage class}.
  <<<<<<< HEAD
      Options: frozen dataclass of what a caller of `sample` may choose: bool, int, float or str; a field at None takes
        the model's own. Its fields' metadata make the command line's options: 'help', 'metavar', 'choices', and 'flags'
        {name of a flag: (the value that it stands for, its help)}.
      sizes: {size: {part: fields of its module}}, the sizes that its configs name.
      depth_part: the part that estimates depth, [b, H, W, 3] in [0, 1] -> relative inverse depth [b, H, W, 1]; None where
        there is no such part.
  =======
      Options: frozen dataclass of the options of `sample`; a field that is None takes the model's value. The fields'
        metadata ('help', 'metavar', 'choices') define the command line's options.
  >>>>>>> types
  """

  name: str
  parts: Mapping[str, Part]
  outputs: tuple[Output, ...]
  sections: Mapping[str, Any]
  stages: Mapping[str, type[Stage]]
  Options: type
  sizes: Mapping[str, Mapping[str, Mapping[str, Any]]] = {}
  depth_part: str | None = None

  @property
  def variants(self) -> Mapping[str, Variant]:
    """{name: what an evaluation can score}, beside bicubic enlargement; the last one is the answer."""
    return {'result': Variant(self.outputs[-1].name)}

  def plan(self, config: Mapping[str, Any], modules: Mapping[str, Any], options: Any) -> Any:
    """Checks options against a model.

    Args:
      config: the content of model.json.
      modules: {part: module} of the parts that the model has.
      options: an instance of `Options`.

    Raises:
      SSRError: an invalid option or field of model.json, or a missing part.
    """
    raise NotImplementedError

  def required(self, config: Mapping[str, Any], modules: Mapping[str, Any], options: Any) -> tuple[str, ...]:
    """The parts that `plan` needs for these options; the model may lack some."""
    raise NotImplementedError

  def check_model(self, config: Mapping[str, Any], modules: Mapping[str, Any]) -> None:
    """Raises SSRError, naming the field, for invalid values in the system's sections of model.json."""

  def alignment(self, modules: Mapping[str, Any], plan: Any) -> int:
    """Number of LR pixels of which each tile origin must be a multiple."""
    del modules, plan
    return 1

  def view_size(self, modules: Mapping[str, Any], plan: Any) -> tuple[int, int] | None:
    """Size (h, w) of the view of a tiled image that `prepare` and `advance` get; None for no view."""
    del modules, plan
    return None

  def passes(self, plan: Any) -> int:
    """Number of times that a tiled image is restored; `advance` runs between passes, on a view of the last result."""
    del plan
    return 1

  def prepare(self, modules: Mapping[str, Any], variables: Mapping[str, Tree], view: Any, plan: Any) -> Tree:
    """Computes the context that an image's tiles share, from a view of the whole image, [1, *view_size, 3]."""
    del modules, variables, view, plan

  def advance(
    self, modules: Mapping[str, Any], variables: Mapping[str, Tree], context: Tree, view: Any, plan: Any
  ) -> Tree:
    """Computes the next pass's context from the last one's and a view of the last pass's result."""
    del modules, variables, view, plan
    return context

  def restore(
    self,
    modules: Mapping[str, Any],
    variables: Mapping[str, Tree],
    lr: Any,
    window: Window,
    context: Tree,
    noise: Any,
    plan: Any,
    last: bool = True,
  ) -> dict[str, Any]:
    """Restores one tile.

    Args:
      modules: {part: module} of the plan's parts.
      variables: {part: variables}.
      lr: [1, h, w, 3] in [0, 1].
      window: position of the tile.
      context: from `prepare` or `advance`; None if the image is a single tile.
      noise: `diffusion.noise.NoiseField` of the tile.
      plan: from `plan`.
      last: whether this is the last pass. Earlier passes return one output, 'view', the input of `advance`.

    Returns:
      {name: array with a b axis} of `outputs`; the last output may be missing if `finish` adds it.
    """
    raise NotImplementedError

  def finish(self, found: dict[str, Any], plan: Any) -> dict[str, Any]:
    """Completes the outputs on the host, from the whole image: {name: NumPy array without a b axis}."""
    del plan
    return found
