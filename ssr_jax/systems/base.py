"""What a system is made of: its parts, what it returns, its options and its training stages.

A system lives in a folder of its own and is known to the rest of the house by its line in `systems/__init__.py`. All
that the floors above need to know of it is what these classes say. The file is above 400 lines, because the interface
is read as a whole.
"""

from collections.abc import Callable, Mapping
import dataclasses
import importlib
from typing import Any

import flax.struct

from ssr_jax.systems import fields
from ssr_jax.types import SSRError

Tree = Any


@dataclasses.dataclass(frozen=True)
class Part:
  """A network of a system that is trained, stored and loaded by itself.

  Attributes:
    families: {family: 'module:Class'}; the first one is what a config without the field 'family' means.
    example: module -> arguments that initialise it, zeros of small sizes; shapes of variables do not depend on them.
    optional: prefixes of variables, such as 'params/heads/', that only training uses; a file may leave them out.
    adjustable: attributes of the module that may differ from those that its weights were trained with, such as a
      working resolution.
    groups: {label: regular expression of variables, matched from their beginning}, which `ssr info` counts apart.
    limits: {attribute: (lowest, highest)} of the numbers in a config, where `fields`'s own are too wide: what is built
      or traced many times, and what is divided by.
  """

  families: Mapping[str, str]
  example: Callable[[Any], tuple[Any, ...]]
  optional: tuple[str, ...] = ()
  adjustable: tuple[str, ...] = ()
  groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
  limits: fields.Limits = dataclasses.field(default_factory=dict)

  def build(self, name: str, family: str | None = None, **config: Any) -> Any:
    """Makes the Flax module.

    Args:
      name: of the part, for messages.
      family: which network; None takes the first.
      **config: the module's attributes; lists become tuples, so that values read from JSON work.

    Raises:
      SSRError: an unknown family or attribute; the message lists the known ones.
    """
    cls = self._class(name, family)
    known = [field.name for field in dataclasses.fields(cls) if field.name not in ('parent', 'name')]
    unknown = [field for field in config if field not in known]
    if unknown:
      raise SSRError(f'{name}: unknown field {unknown[0]!r}; known: {", ".join(known)}')
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in config.items()})

  def check(self, name: str, config: Mapping[str, Any], where: str) -> None:
    """Checks types and bounds of a config read from a file, before anything is built.

    Args:
      name: of the part, for messages.
      config: 'family' and the module's attributes; plain JSON values.
      where: name of the field that holds the config, for messages.

    Raises:
      SSRError: an unknown family or attribute, a wrong type, or a number out of bounds; the message names the field.
    """
    config = dict(config)
    fields.check_module(self._class(name, config.pop('family', None)), config, self.limits, where)

  def _class(self, name: str, family: Any) -> type:
    """The class of a family's module; SSRError if there is no such family."""
    family = next(iter(self.families)) if family is None else family
    if not isinstance(family, str) or family not in self.families:
      raise SSRError(f'{name}: unknown family {family!r}; known: {", ".join(self.families)}')
    module, _, cls = self.families[family].partition(':')
    return getattr(importlib.import_module(module), cls)


KINDS = {
  'image': '[H, W, 3] in [0, 1]',
  'depth': '[H, W, 1] in [0, 1]',
  'kernels': '[h, w, k*k]',
  'map': '[H, W, c]',
}
"""{kind of an output: its shape and range}."""


@dataclasses.dataclass(frozen=True)
class Output:
  """Something that a system finds for an image.

  Attributes:
    name: attribute of the result, such as 'depth'.
    kind: one of `KINDS`.
    label: what a picture of it is called.
  """

  name: str
  kind: str
  label: str

  @property
  def at_lr(self) -> bool:
    """Whether it has the size of the LR image, not of the result."""
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
  """What a stage's functions compute with, beside the batch.

  Attributes:
    params: {part: parameters} of the trained parts; a critic is a part that is not exported.
    stats: {part: batch statistics} of the trained parts.
    frozen: {part: variables} of the parts that the stage needs.
    constants: {part: constants} of the trained parts.
    key: of this step.
    step: steps done.
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
    name: of that model, for messages; None where there is none, and the parts are the config's.
    parts: {part: fields of its module}.
    sections: of its model.json.
  """

  name: str | None
  parts: Mapping[str, Mapping[str, Any]]
  sections: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


class Stage:
  """A training stage: what is trained, on which loss, and which figure says that weights are better.

  A stage is made from a config and reads nothing else; its methods are pure functions of a `StepContext` and a batch,
  to be compiled by the trainer.

  Attributes:
    trains: the trained parts that are exported.
    needs: the frozen parts; of a stage that is made, those that its config needs.
    metric: the validation scalar that decides which weights are better.
    higher_is_better: its direction.
    depth: whether batches have true depth: 'needs' it (of rendered scenes where the source has none), 'uses' what there
      is, or 'none'.
    learned: names of metrics with weights that the loss computes too; `ctx.frozen` has their variables by these names.
    optional: what else of `data.sources.KEYS` it uses if the source has it.
    fixed: regular expressions of parameters that stay as they are, beside those of `config.train.frozen`.
    sections: of model.json that the exported parts are useless without.
    measures: {part: its config fields that `export` measures}.
    origin: what a start from nothing is called.
    modules: {part: module} of the trained and the frozen parts.
  """

  trains: tuple[str, ...] = ()
  needs: tuple[str, ...] = ()
  metric: str = ''
  higher_is_better: bool = False
  depth: str = 'none'
  learned: tuple[str, ...] = ()
  optional: tuple[str, ...] = ()
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

  @classmethod
  def needed(cls, config: Any) -> tuple[str, ...]:
    """The frozen parts with this config; `needs`, unless a field of the stage asks for more."""
    del config
    return cls.needs

  def init(self, key: Any) -> tuple[Tree, Tree, Tree]:
    """Fresh variables: (params, batch statistics, constants), {part: tree} each."""
    raise NotImplementedError

  def prepare(self, ctx: StepContext, batch: Tree, inherited: bool) -> tuple[Tree, Tree]:
    """New (params, stats) before the first step of a run, not of a resumed one.

    Args:
      ctx: of the fresh or loaded variables.
      batch: the first one.
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
    """{name: images [b, H, W, 3]}, shown side by side."""
    raise NotImplementedError

  def export(self, ctx: StepContext, batch: Tree) -> dict[str, dict[str, Any]]:
    """{part: {config field: value}}, measured on held-out images."""
    del ctx, batch
    return {}


@flax.struct.dataclass
class Window:
  """Which part of an image a tile is; the tile may reach past the image's bottom and right, where it is padded.

  Attributes:
    size: (h, w) of the whole image in LR pixels, int32 [2].
    origin: (y, x) of the tile's top left corner in it, int32 [2].
  """

  size: Any
  origin: Any


class System:
  """A method of super-resolution, as the floors above see it.

  `prepare`, `advance` and `restore` are pure and compiled; `plan` and `finish` run on the host. `plan` gives a frozen,
  hashable object that has at least the attributes `scale`, `parts` (those that it needs, in the order in which they
  run) and one for each option, with the value that is used.

  Attributes:
    name: by which configs and model files name it.
    parts: {name: Part}.
    outputs: what it returns; the last one is the answer.
    sections: defaults of the sections of model.json that are its own.
    section_types: {section: type of `fields` that its content has}; a section without one is any object.
    stages: {name: Stage class}.
    Options: frozen dataclass of what a caller of `sample` may choose: bool, int, float or str; a field at None takes
      the model's own. Its fields' metadata make the command line's options: 'help', 'metavar', 'choices', and 'flags'
      {name of a flag: (the value that it stands for, its help)}.
    sizes: {size: {part: fields of its module}}, the sizes that its configs name.
    depth_part: the part that estimates depth, [b, H, W, 3] in [0, 1] -> relative inverse depth [b, H, W, 1]; None where
      there is no such part.
    accepts: names of outputs that a caller may give instead of having them estimated. A system that has some has a
      plan with the attribute `given`, the names of those that were given, and for depth and maps a `view_size`.
  """

  name: str
  parts: Mapping[str, Part]
  outputs: tuple[Output, ...]
  sections: Mapping[str, Any]
  stages: Mapping[str, type[Stage]]
  Options: type
  section_types: Mapping[str, Any] = {}
  sizes: Mapping[str, Mapping[str, Mapping[str, Any]]] = {}
  depth_part: str | None = None
  accepts: tuple[str, ...] = ()

  @property
  def variants(self) -> Mapping[str, Variant]:
    """{name: what an evaluation can score}, beside bicubic enlargement; the last one is the answer."""
    return {'result': Variant(self.outputs[-1].name)}

  @property
  def estimating(self) -> Mapping[str, Any]:
    """Options of `sample` that leave out what kernels and depth do not depend on."""
    return {}

  def plan(self, config: Mapping[str, Any], modules: Mapping[str, Any], options: Any) -> Any:
    """Checks options against a model.

    Args:
      config: the content of model.json.
      modules: {part: module} of the parts that the model has.
      options: an instance of `Options`.

    Raises:
      SSRError: an option or a field of model.json that cannot be used, or a part that is missing for it.
    """
    raise NotImplementedError

  def required(self, config: Mapping[str, Any], modules: Mapping[str, Any], options: Any) -> tuple[str, ...]:
    """The parts that `plan` needs for these options, whether the model has them or not."""
    raise NotImplementedError

  def check_model(self, config: Mapping[str, Any], modules: Mapping[str, Any]) -> None:
    """SSRError, naming the field, where the system's sections of model.json cannot be used."""

  def alignment(self, modules: Mapping[str, Any], plan: Any) -> int:
    """LR pixels of which every tile's origin must be a multiple."""
    del modules, plan
    return 1

  def padding(self, modules: Mapping[str, Any], plan: Any) -> int | None:
    """LR pixels of which the sides that images are padded to must be multiples; None for the size classes.

    Size classes let images of many sizes share a program. A system whose networks look at the whole image at once, so
    that padding changes what they find, asks for as little as its networks need; each size then has a program.
    """
    del modules, plan

  def view_size(self, modules: Mapping[str, Any], plan: Any) -> tuple[int, int] | None:
    """Size at which `prepare` and `advance` see the whole of an image that runs in tiles; None if they need not."""
    del modules, plan
    return None

  def passes(self, plan: Any) -> int:
    """How often an image in tiles is restored; after each pass but the last `advance` sees its answer, small."""
    del plan
    return 1

  def prepare(self, modules: Mapping[str, Any], variables: Mapping[str, Tree], view: Any, plan: Any) -> Tree:
    """What all tiles of an image share, from the whole image seen small, [1, *view_size, 3]."""
    del modules, variables, view, plan

  def advance(
    self, modules: Mapping[str, Any], variables: Mapping[str, Tree], context: Tree, view: Any, plan: Any
  ) -> Tree:
    """The next pass's context, from this one's and what the pass made of the image, seen small."""
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
    given: Mapping[str, Any] | None = None,
  ) -> dict[str, Any]:
    """Restores one tile.

    Args:
      modules: of the plan's parts.
      variables: theirs.
      lr: [1, h, w, 3] in [0, 1].
      window: where it lies.
      context: of `prepare` or `advance`; None where the image is a single tile.
      noise: `diffusion.noise.NoiseField` of the tile.
      plan: of `plan`.
      last: whether this is the last pass. Before it there is one output, 'view', what `advance` sees.
      given: {name: array} of what the caller gave of `accepts`, used instead of an estimate: of the tile, [1, h, w, c]
        for outputs at LR size and [1, H, W, 3] for images; else [1, *view_size, c] of the whole image. The runtime
        leaves it out where there is nothing.

    Returns:
      {name: array with a b axis} of `outputs`; the answer is left out where it is another output unchanged.
    """
    raise NotImplementedError

  def neutral(self, modules: Mapping[str, Any], name: str) -> Any:
    """The value [c] of an output of `accepts` that says nothing of an image, for an ablation without it."""
    raise NotImplementedError

  def gathering(self, kernels: Any, plan: Any) -> Any:
    """Kernels [..., k*k] of its output, as `image.blur.blur_downsample` takes them."""
    del plan
    return kernels

  def finish(self, found: dict[str, Any], plan: Any) -> dict[str, Any]:
    """The last step on the image, on the host: {name: NumPy array without a b axis}, the answer among them.

    It gets what `restore` found at the result's size, of the whole image or of a band of its rows; see `reach`.
    """
    del plan
    return found

  def reach(self, plan: Any) -> int | None:
    """Rows of the result, above and below a row, that `finish` looks at; None where it needs the whole image.

    With a number images of any size run in bands of rows; with None the whole result is held in memory as float32.
    """
    del plan
    return 0 if type(self).finish is System.finish else None
