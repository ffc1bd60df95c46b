"""The explorer of a notebook: menus, the linked pictures, and a button that copies the code.

Menus are those of ipywidgets, the pictures altair's `JupyterChart` in its offline form: Vega comes from the installed package,
and nothing is loaded from elsewhere. A saved notebook keeps a picture of the last view.

>>> explore("cache/demo/store.zarr", quantity="parameters/rms")  # doctest: +SKIP
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import altair as alt

from olmo_dynamics.errors import OptionError
from olmo_dynamics.files import Place
from olmo_dynamics.frames import RecordedStore
from olmo_dynamics.plots.display import NotebookRenderer
from olmo_dynamics.plots.explorer.explored import Explored
from olmo_dynamics.plots.explorer.menus import Menu
from olmo_dynamics.plots.explorer.view import ExploredView, look
from olmo_dynamics.plots.theme import AnyChart

_NEEDED = ("anywidget", "ipywidgets")
_SLIDERS = ("layer", "head", "expert", "smoothing")
"""Menus that are drawn as sliders: their options have an order."""

_TITLES = {"line": "stage", "x": "axis"}
_WIDTH = "290px"


class Explorer:
    """The widget that `od.explore` gives; `choice`, `code` and `chart` are those of the picture that is shown."""

    def __init__(self, explored: Explored, asked: Mapping[str, str], place: str | Place | None = None) -> None:
        from olmo_dynamics.plots.explorer.code_to_copy import CodeToCopy

        alt.JupyterChart.enable_offline()
        self._widgets: Any = importlib.import_module("ipywidgets")
        self._explored, self._place, self._is_showing = explored, place, False
        self._view = look(explored, asked)
        self._picture = alt.JupyterChart(self._view.chart)
        self._code = CodeToCopy(code=self._view.code)
        self._again: Any = self._widgets.Button(description="Read again", tooltip="Read the store again")
        self._again.on_click(lambda _: self.refresh())
        self._controls: dict[str, Any] = {}
        self._bar: Any = self._widgets.HBox(layout={"flex_flow": "row wrap"})
        self._box: Any = self._widgets.VBox([self._bar, self._picture, self._code])
        self._place_menus()

    @property
    def choice(self) -> dict[str, str]:
        """The chosen text of each menu."""
        return self._view.choice

    @property
    def code(self) -> str:
        """Three lines of Python that draw the same picture."""
        return self._view.code

    @property
    def chart(self) -> AnyChart:
        """The shown picture, an altair chart."""
        return self._view.chart

    def choose(self, **asked: str | float) -> None:
        """Look at another picture: `choose(quantity="loss/cross_entropy", smoothing=0.6)`."""
        self._show(look(self._explored, self.choice | _texts(asked)))

    def refresh(self) -> None:
        """Read the store again, and draw what it holds now."""
        if self._place is not None:
            self._explored = Explored.at(self._place)
        self._show(look(self._explored, self.choice))

    def _show(self, view: ExploredView) -> None:
        old, self._view = self._view, view
        self._picture.chart = view.chart
        self._code.code = view.code
        self._is_showing = True  # the controls below change as well, and must not ask for a picture each
        if [(menu.name, menu.options) for menu in old.menus] != [(menu.name, menu.options) for menu in view.menus]:
            self._place_menus()
        for name, value in view.choice.items():
            self._controls[name].value = value
        self._is_showing = False

    def _place_menus(self) -> None:
        """Make the controls anew: another quantity has other labels."""
        self._controls = {menu.name: self._control(menu) for menu in self._view.menus}
        self._bar.children = (*self._controls.values(), self._again)

    def _control(self, menu: Menu) -> Any:
        is_slider = menu.name in _SLIDERS
        make = self._widgets.SelectionSlider if is_slider else self._widgets.Dropdown
        more = {"continuous_update": False} if is_slider else {}
        title = _TITLES.get(menu.name, menu.name)
        options = list(menu.options)
        control = make(options=options, value=menu.value, description=title, layout={"width": _WIDTH}, **more)
        control.observe(lambda change: self._chosen(menu.name, change["new"]), names="value")
        return control

    def _chosen(self, name: str, value: str) -> None:
        if not self._is_showing:
            self.choose(**{name: value})

    def _repr_mimebundle_(self, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The widget, and for saved notebooks a picture of what it shows."""
        bundle = dict(self._box._repr_mimebundle_(**options))
        drawn, metadata = NotebookRenderer()(self._view.chart.to_dict())
        return bundle | {"image/png": drawn["image/png"], "text/plain": repr(self)}, metadata

    def __repr__(self) -> str:
        return f"Explorer({', '.join(f'{name}: {value}' for name, value in self.choice.items())})"


def explore(store: RecordedStore | str | Path, quantity: str = "", **choice: str | float) -> Explorer:
    """Explore the quantities of a store in a notebook: menus, a map, its curves, and one revision's profile.

    Brushing the map zooms the curves; a click on a cell or a dot shows that revision's profile over the layers. The button below
    copies three lines of Python that draw the same picture.

    Args:
        store: a store, of several runs too; or its path, or that of the folder of a fork, whose metrics can be explored too.
        quantity: the first quantity, `group/name`; the loss unless given.
        **choice: the first choices of other menus, by their names: `role="q_proj"`, `layer=3`, `x="tokens"`, `smoothing=0.6`.

    Raises:
        OptionError: the extra `notebooks` is not installed, the store has no such quantity, or holds no revision yet.
        StoreError: there is no store at the path.
    """
    absent = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise OptionError(f"explore() needs {' and '.join(absent)}; pip install 'olmo-dynamics[notebooks]'")
    if isinstance(store, RecordedStore):
        explored, place = Explored(store), store.path if store.path.exists() else None
    else:
        explored, place = Explored.at(store), Path(store)
    asked = _texts(choice)
    if quantity:
        explored.require(quantity)
        asked["quantity"] = quantity
    return Explorer(explored, asked, place)


def _texts(choice: Mapping[str, str | float]) -> dict[str, str]:
    """Choices as menus name them: `x_scale` is `x scale`."""
    return {"x scale" if name == "x_scale" else name: str(value) for name, value in choice.items()}
