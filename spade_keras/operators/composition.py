"""Operators made of operators: composed, stacked, or scaled."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from spade_keras.errors import require
from spade_keras.operators.equivariance import TRANSFORMS
from spade_keras.operators.linear_operator import (
    LinearOperator,
    Shape,
    Shapes,
    check_operator,
)


class _Members(LinearOperator):
    """Operators whose parameters have names of their own; see `Composition`."""

    settings = ("operators", "shared")
    chained = False
    """Whether a member measures the output of the one before, not the image."""

    def __init__(
        self, operators: Sequence[LinearOperator], shared: Sequence[str] = (), **kwargs: Any
    ) -> None:
        names = _outer_names(operators, shared)
        super().__init__(**kwargs)
        self.operators = list(operators)
        self.shared = list(shared)
        self._names = names
        self.parameter_names = tuple(dict.fromkeys(n for own in names for n in own.values()))
        informative = [name for member in operators for name in member.informative_transforms]
        self.informative_transforms = tuple(dict.fromkeys(informative))
        self.uninformative_transforms = tuple(
            name
            for name in TRANSFORMS
            if all(name in member.uninformative_transforms for member in operators)
        )

    def _members(self, parameters: Mapping[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
        """Every member with its parameters, under their names in the member."""
        return [
            (member, {inner: parameters[outer] for inner, outer in names.items()})
            for member, names in zip(self.operators, self._names, strict=True)
        ]

    def example_parameters(self, x_shape: Sequence[int], seed: int = 0) -> dict[str, np.ndarray]:
        """Makes the members' examples; of shared ones, those of the first that has them."""
        joined: dict[str, np.ndarray] = {}
        shape: Any = tuple(x_shape)
        for position, (member, names) in enumerate(zip(self.operators, self._names, strict=True)):
            values = member.example_parameters(shape, seed + position)
            if self.chained:
                shapes = {name: value.shape for name, value in values.items()}
                shape = member.measurement_shape(shape, shapes)
            for inner, value in values.items():
                joined.setdefault(names[inner], value)
        return joined


@keras.saving.register_keras_serializable(package="spade_keras")
class Composition(_Members):
    """y = A_n ... A_2 A_1 x, of members in the order in which they are applied.

    A parameter that several members have is numbered by their position, as `kernel_0` and
    `kernel_1`, unless its name is in `shared`: then all of them get the same tensor. Transforms
    that are informative for any member are informative for it. Whether members undo each other's
    effect depends on the parameters; `commutator` measures it.

    Example:
        >>> from spade_keras.operators import Blur, Inpainting
        >>> Composition([Blur(), Inpainting(), Blur("reflect")]).parameter_names
        ('kernel_0', 'mask', 'kernel_2')
    """

    chained = True

    def forward(self, x: Any, **parameters: Any) -> Any:
        """Returns A_n ... A_1 x."""
        for member, values in self._members(parameters):
            x = member.forward(x, **values)
        return x

    def adjoint(self, y: Any, **parameters: Any) -> Any:
        """Returns A_1^H ... A_n^H y."""
        for member, values in reversed(self._members(parameters)):
            y = member.adjoint(y, **values)
        return y

    def normal(self, x: Any, **parameters: Any) -> Any:
        """Returns A_1^H ... A_n^H A_n ... A_1 x, the middle by the last member's `normal`."""
        *outer, (last, last_values) = self._members(parameters)
        for member, values in outer:
            x = member.forward(x, **values)
        x = last.normal(x, **last_values)
        for member, values in reversed(outer):
            x = member.adjoint(x, **values)
        return x

    def measurement_shape(self, x_shape: Shape, parameter_shapes: Shapes) -> Shape:
        """Returns the shape of the last member's measurements."""
        shape = tuple(x_shape)
        for member, values in self._members(parameter_shapes):
            shape = member.measurement_shape(shape, values)
        return shape


@keras.saving.register_keras_serializable(package="spade_keras")
class Stacking(_Members):
    """y = (A_1 x, ..., A_n x): measurements of equal shape, stacked behind the batch axis.

    The output has the shape `(batch, n, ...)`; arguments are those of `Composition`.

    Example:
        >>> from spade_keras.operators import CartesianMRI
        >>> scan = Stacking([CartesianMRI(), CartesianMRI()], shared=["sensitivities"])
        >>> scan.parameter_names
        ('mask_0', 'sensitivities', 'mask_1')
    """

    def forward(self, x: Any, **parameters: Any) -> Any:
        """Returns (A_1 x, ..., A_n x)."""
        measured = [member.forward(x, **values) for member, values in self._members(parameters)]
        _check_alike([tuple(y.shape) for y in measured])
        return ops.stack(measured, axis=1)

    def adjoint(self, y: Any, **parameters: Any) -> Any:
        """Returns A_1^H y_1 + ... + A_n^H y_n."""
        members = enumerate(self._members(parameters))
        return sum(member.adjoint(y[:, n], **values) for n, (member, values) in members)

    def normal(self, x: Any, **parameters: Any) -> Any:
        """Returns the sum of the members' A_i^H A_i x."""
        return sum(member.normal(x, **values) for member, values in self._members(parameters))

    def measurement_shape(self, x_shape: Shape, parameter_shapes: Shapes) -> Shape:
        """Returns `(batch, n, ...)`."""
        members = self._members(parameter_shapes)
        shapes = [member.measurement_shape(x_shape, values) for member, values in members]
        _check_alike(shapes)
        batch, *others = shapes[0]
        return batch, len(shapes), *others


@keras.saving.register_keras_serializable(package="spade_keras")
class Scaling(LinearOperator):
    """y = factor A x, for data in other units or an operator that should have norm 1.

    Example:
        >>> import numpy as np
        >>> from spade_keras.operators import Denoising
        >>> float(Scaling(Denoising(), 2.5).forward(np.ones((1, 1, 1, 1)))[0, 0, 0, 0])
        2.5
    """

    settings = ("operator", "factor")

    def __init__(self, operator: LinearOperator, factor: float, **kwargs: Any) -> None:
        check_operator(operator)
        finite = isinstance(factor, (int, float)) and math.isfinite(factor)
        require(finite, "`factor` must be a finite number.", factor=factor)
        super().__init__(**kwargs)
        self.operator = operator
        self.factor = float(factor)
        self.parameter_names = operator.parameter_names
        self.informative_transforms = operator.informative_transforms
        self.uninformative_transforms = operator.uninformative_transforms

    def forward(self, x: Any, **parameters: Any) -> Any:
        """Returns factor A x."""
        return self.factor * self.operator.forward(x, **parameters)

    def adjoint(self, y: Any, **parameters: Any) -> Any:
        """Returns factor A^H y."""
        return self.factor * self.operator.adjoint(y, **parameters)

    def normal(self, x: Any, **parameters: Any) -> Any:
        """Returns factor^2 A^H A x."""
        return self.factor**2 * self.operator.normal(x, **parameters)

    def measurement_shape(self, x_shape: Shape, parameter_shapes: Shapes) -> Shape:
        """Returns that of the operator's measurements."""
        return self.operator.measurement_shape(x_shape, parameter_shapes)

    def example_parameters(self, x_shape: Sequence[int], seed: int = 0) -> dict[str, np.ndarray]:
        """Makes the operator's examples."""
        return self.operator.example_parameters(x_shape, seed)


def _outer_names(
    operators: Sequence[LinearOperator], shared: Sequence[str]
) -> list[dict[str, str]]:
    """Per member, the name of each of its parameters in the combination."""
    known = operators and all(isinstance(member, LinearOperator) for member in operators)
    require(known, "`operators` must be one or more LinearOperators.", operators=operators)
    held = [name for member in operators for name in member.parameter_names]
    rule = f"`shared` must name parameters of the operators, which are {sorted(set(held))}."
    require(set(shared) <= set(held), rule, shared=list(shared))

    def outer(position: int, name: str) -> str:
        return name if held.count(name) == 1 or name in shared else f"{name}_{position}"

    names = [
        {name: outer(position, name) for name in member.parameter_names}
        for position, member in enumerate(operators)
    ]
    given = [new for own in names for old, new in own.items() if old not in shared]
    # A numbered name may be one that a nested combination or a shared parameter has already.
    twice = sorted({name for name in given if given.count(name) > 1 or name in shared})
    rule = (
        "Two parameters of the operators would have the same name. Compose all members in one list "
        "instead of nesting them, or share the parameter."
    )
    require(not twice, rule, names=twice)
    return names


def _check_alike(shapes: Sequence[Shape]) -> None:
    ranks = {len(shape) for shape in shapes}
    sizes = [{size for size in axis if size is not None} for axis in zip(*shapes, strict=False)]
    rule = (
        "The measurements of stacked operators must have one shape; give the network an input for "
        "each of them instead."
    )
    alike = len(ranks) == 1 and all(len(axis) <= 1 for axis in sizes)
    require(alike, rule, shapes=[tuple(shape) for shape in shapes])
