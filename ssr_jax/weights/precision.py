"""Finds the inputs of a traced program that it only uses after rounding them to a lower precision."""

from typing import Any

import jax.extend


def rounded_inputs(program: Any, dtype: Any) -> set[Any]:
  """The input variables of a jaxpr that every use converts to `dtype` first.

  Such an input can be stored in `dtype` without changing the result. Calls and loops are followed into their bodies. An
  input that is not used, or that is also an output, is not in the set.

  Args:
    program: a jaxpr, such as `jax.make_jaxpr(f)(x).jaxpr`.
    dtype: the NumPy dtype to look for.
  """
  uses: dict[Any, list[bool]] = {variable: [] for variable in program.invars}
  for equation in program.eqns:
    bodies = [getattr(value, 'jaxpr', value) for value in equation.params.values()]
    bodies = [value for value in bodies if hasattr(value, 'eqns')]
    converts = equation.primitive.name == 'convert_element_type' and equation.params['new_dtype'] == dtype
    # Calls and scans pass their inputs to the body one to one.
    if len(bodies) == 1 and len(bodies[0].invars) == len(equation.invars):
      inside = rounded_inputs(bodies[0], dtype)
      rounds = [own in inside for own in bodies[0].invars]
    else:
      rounds = [converts] * len(equation.invars)
    for variable, rounded in zip(equation.invars, rounds, strict=True):
      if isinstance(variable, jax.extend.core.Var) and variable in uses:
        uses[variable].append(rounded)
  outputs = {v for v in program.outvars if isinstance(v, jax.extend.core.Var)}
  return {variable for variable, found in uses.items() if found and all(found) and variable not in outputs}
