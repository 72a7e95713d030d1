"""The panels that the dashboards are made of: one datasource variable, one legend, one kind of threshold."""

from collections.abc import Iterable, Iterator, Mapping
from string import ascii_uppercase
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BarGaugeNamePlacement,
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    GraphDrawStyle,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    LineInterpolation,
    StackingMode,
    TableAutoCellOptions,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColor,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
    VariableHide,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from grafana_foundation_sdk.models.table import Options as TableOptions

DATASOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
GREEN, YELLOW, ORANGE, RED, BLUE, PURPLE, GREY = "green", "yellow", "orange", "red", "blue", "purple", "text"
FULL = 24
"""Columns of a dashboard."""
TAG = "finetune-operator"
Panel = TypeVar("Panel", timeseries.Panel, stat.Panel, table.Panel, bargauge.Panel)


class Query(NamedTuple):
    """A PromQL expression and how its series are named."""

    expr: str
    legend: str = "__auto"
    color: str | None = None


def assemble(
    board: build.Dashboard, parts: Mapping[str, Iterable[Builder[models.Panel]]]
) -> models.Dashboard:
    """Heading → panels; those without a heading come first."""
    for heading, listed in parts.items():
        if heading:
            board = board.with_row(build.Row(heading))
        for panel in listed:
            board = board.with_panel(panel)
    made = board.build()
    for number, part in enumerate(made.panels or [], start=1):
        part.id_val = number
    _drop_foreign_defaults(made)
    return made


def _drop_foreign_defaults(board: models.Dashboard) -> None:
    """Drop what the builders write and no Grafana has asked for."""
    assert board.links
    assert board.templating
    assert board.annotations
    for link in board.links:
        link.placement = None  # it would hide the links in a menu
    for mark in board.annotations.list_val or []:
        mark.placement = None
    for panel in board.panels or []:
        if isinstance(panel, models.Panel) and isinstance(panel.options, TableOptions):
            panel.options.footer = None  # a footer belongs to the fields since Grafana 12
    for variable in board.templating.list_val or []:
        variable.auto = variable.auto_count = variable.auto_min = None  # of variables for intervals


def or_zero(expr: str) -> str:
    """0 instead of nothing, but only where an operator is scraped: else "No data" is the truth."""
    return f"{expr} or 0 * sum(finetune_operator_leader)"


def steps(base: str, *above: tuple[float, str]) -> build.ThresholdsConfig:
    """A colour from minus infinity on, and others from a value on."""
    listed = [Threshold(value=None, color=base), *(Threshold(value=v, color=c) for v, c in above)]
    return build.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(listed)


def dashboard(uid: str, title: str, description: str, *, period: str = "now-6h") -> build.Dashboard:
    """A dashboard without panels, with the variable `datasource` and links to the others."""
    links = build.DashboardLink("Fine-tuning").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    source = build.DatasourceVariable("datasource").label("Data source").type("prometheus")
    return (
        build.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .timezone("browser")
        .time(period, "now")
        .refresh("30s")
        .link(links.keep_time(True))
        .with_variable(source)
    )


def variable(name: str, label: str, query: str, *, several: bool = False) -> build.QueryVariable:
    """A variable with the values of a query, read again when the period changes."""
    made = (
        build.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query({"query": query, "refId": f"variable-{name}"})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(several)
        .include_all(several)
    )
    if several:
        made = made.all_value(".*").current(VariableOption(text="All", value="$__all"))
    return made


def datasource_of_logs() -> build.DatasourceVariable:
    """A data source of logs, which only a link uses; empty where there is none."""
    return build.DatasourceVariable("logs").label("Logs").type("loki").hide(VariableHide.HIDE_VARIABLE)


def link_to_logs() -> build.DashboardLink:
    """The logs of the job's pods in Explore, from the data source of `datasource_of_logs`."""
    selector = r"{namespace=\"$namespace\", pod=~\"$job-.+\"}"
    query = f'{{"refId":"A","expr":"{selector}"}}'
    pane = f'{{"a":{{"datasource":"${{logs}}","queries":[{query}],"range":{{"from":"${{__from}}","to":"${{__to}}"}}}}}}'
    url = f"/explore?schemaVersion=1&panes={quote(pane, safe='${}')}"
    return build.DashboardLink("Logs").type(DashboardLinkType.LINK).icon("doc").url(url).target_blank(True)


def marks(name: str, expr: str, text: str, color: str) -> build.AnnotationQuery:
    """A mark wherever a series has a value."""
    return (
        build.AnnotationQuery()
        .name(name)
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color(color)
        .target(_target(Query(expr, text), "A", instant=False))
        .title_format(text)
    )


def lines(
    title: str,
    description: str,
    unit: str,
    queries: Iterable[Query],
    *,
    width: int = 8,
    height: int = 8,
    stacked: bool = False,
    limit: build.ThresholdsConfig | None = None,
    highest: float | None = None,
    dots: bool = False,
    calcs: tuple[str, ...] = ("lastNotNull",),
) -> timeseries.Panel:
    """Curves over time; `limit` is drawn as a line, `calcs` are in the legend, `dots` show single values."""
    legend = (
        common.VizLegendOptions()
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(list(calcs))
    )
    panel = _shown(timeseries.Panel(), title, description, unit, queries, width, height)
    panel = (
        panel.legend(legend)
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        .draw_style(GraphDrawStyle.LINE)
        .line_interpolation(LineInterpolation.LINEAR)
        .line_width(2)
        .show_points(VisibilityMode.ALWAYS if dots else VisibilityMode.AUTO)
        .point_size(5)
        .span_nulls(False)
        .fill_opacity(40 if stacked else 0)
        .thresholds(limit or steps(GREEN))
        .color_scheme(build.FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
    )
    if highest is not None:
        panel = panel.min(0).max(highest)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A")).axis_soft_min(0)
    if limit:
        style = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds_style(style)
    return panel


def number(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 4,
    height: int = 4,
    colors: build.ThresholdsConfig | None = None,
    history: bool = False,
    absent: str | None = None,
    name_only: bool = False,
    decimals: int | None = None,
) -> stat.Panel:
    """One number, or several with their names; `history` draws its curve below."""
    panel = _shown(
        stat.Panel(), title, description, unit, queries, width, height, instant=not history, absent=absent
    )
    if decimals is not None:
        panel = panel.decimals(decimals)
    return (
        panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
        .graph_mode(BigValueGraphMode.AREA if history else BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.VALUE)
        .text_mode(BigValueTextMode.NAME if name_only else BigValueTextMode.AUTO)
        .color_scheme(build.FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .thresholds(colors or steps(GREY))
    )


def bars(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    width: int = 8,
    height: int = 8,
    colors: build.ThresholdsConfig | None = None,
    highest: float | None = None,
) -> bargauge.Panel:
    """A bar for each series, of its latest value; the longest has the `highest` value, if given."""
    panel = _shown(bargauge.Panel(), title, description, unit, [query], width, height, instant=True)
    if highest is not None:
        panel = panel.max(highest)
    return (
        panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
        .display_mode(BarGaugeDisplayMode.BASIC)
        .name_placement(BarGaugeNamePlacement.LEFT)
        .max_viz_height(36)
        .orientation(VizOrientation.HORIZONTAL)
        .show_unfilled(True)
        .min(0)
        .color_scheme(build.FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .thresholds(colors or steps(BLUE))
    )


def rows(
    title: str,
    description: str,
    queries: Mapping[str, Query],
    columns: Mapping[str, str],
    *,
    width: int = FULL,
    height: int = 9,
    sort_by: str,
) -> table.Panel:
    """A row for each set of labels; a query's value is the column that has the query's name.

    columns: the order of the columns: label or query → heading.
    """
    panel = table.Panel().title(title).description(description).datasource(DATASOURCE).span(width)
    panel = panel.height(height).unit("short").thresholds(steps(GREY)).no_value("–")
    panel = panel.cell_options(TableAutoCellOptions()).min_width(90)
    for name, query in queries.items():
        panel = panel.with_target(_target(query, name, instant=True).format(PromQueryFormat.TABLE))
    fields = {f"Value #{name}" if name in queries else name: heading for name, heading in columns.items()}
    shown: dict[str, Any] = {
        "includeByName": dict.fromkeys(fields, True),
        "indexByName": {field: index for index, field in enumerate(fields)},
        "renameByName": fields,
        "excludeByName": {},
    }
    return (
        panel.with_transformation(DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(DataTransformerConfig(id_val="organize", options=shown))
        .sort_by([common.TableSortByFieldState().display_name(sort_by).desc(False)])
    )


def field(name: str, value: object) -> DynamicConfigValue:
    """A property of a field that differs from its panel's."""
    return DynamicConfigValue(id_val=name, value=value)


def colored(color: str) -> DynamicConfigValue:
    """One colour for a series."""
    return field("color", FieldColor(mode=FieldColorModeId.FIXED, fixed_color=color))


def words(texts: Mapping[str, str]) -> DynamicConfigValue:
    """Text → its colour."""
    named = {
        text: ValueMappingResult(text=text, color=color, index=index)
        for index, (text, color) in enumerate(texts.items())
    }
    return field("mappings", [ValueMap(options=named)])


def colored_text() -> DynamicConfigValue:
    """A cell whose text has the colour of its value."""
    return field("custom.cellOptions", {"type": "color-text"})


def bar_cell() -> Iterator[DynamicConfigValue]:
    """A cell with a bar from 0."""
    yield field("min", 0)
    yield field("custom.cellOptions", {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"})
    yield colored(BLUE)


def link_to_job() -> Iterator[DynamicConfigValue]:
    """A wide cell that opens the dashboard of the row's job."""
    url = (
        "/d/finetune-job?${datasource:queryparam}&var-namespace=${__data.fields.Namespace}"
        "&var-job=${__value.raw}&${__url_time_range}"
    )
    yield field("links", [{"title": "Open the job", "url": url}])
    yield field("custom.width", 280)


def _shown(
    panel: Panel,
    title: str,
    description: str,
    unit: str,
    queries: Iterable[Query],
    width: int,
    height: int,
    *,
    instant: bool = False,
    absent: str | None = None,
) -> Panel:
    """What every panel has."""
    panel = panel.title(title).description(description).unit(unit).datasource(DATASOURCE)
    panel = panel.span(width).height(height)
    if absent is not None:
        panel = panel.no_value(absent)
    for letter, query in zip(ascii_uppercase, queries, strict=False):
        panel = panel.with_target(_target(query, letter, instant=instant))
        if query.color:
            panel = panel.override_by_query(letter, [colored(query.color)])
    return panel


def _target(query: Query, name: str, *, instant: bool) -> prometheus.Dataquery:
    made = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).ref_id(name)
    made = made.datasource(DATASOURCE)
    return made.instant() if instant else made.range()
