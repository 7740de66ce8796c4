"""Writes Grafana's dashboards: three files under deploy/grafana/dashboards.

    python -m deploy.dashboards

Each panel explains how to read it. A test compares the files; `make ops-test` runs every query against a Prometheus
that scraped the service under load.
"""

from __future__ import annotations

import sys
from pathlib import Path

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

from deploy.panels import DASHBOARDS, Panel

FOLDER = Path(__file__).parent / "grafana" / "dashboards"
DATASOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
WIDTH, HEIGHT = 8, 8


def main() -> int:
    """Writes the files."""
    for name in DASHBOARDS:
        path = FOLDER / f"{name}.json"
        path.write_text(text(name))
        print(path)
    return 0


def text(name: str) -> str:
    """One dashboard as Grafana's JSON."""
    title, panels = DASHBOARDS[name]
    made = dashboard.Dashboard(title).uid(f"latentserve-{name}").tags(["latentserve"])
    made = made.refresh("5s").time("now-15m", "now").timezone("browser").readonly().with_variable(_models())
    for panel in panels:
        made = made.with_panel(_panel(panel))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def _models() -> dashboard.QueryVariable:
    query = "label_values(latentserve_model_info, model)"
    variable = dashboard.QueryVariable("model").label("Model").datasource(DATASOURCE).query(query)
    return variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).multi(True).include_all(True).all_value(".*")


def _panel(panel: Panel) -> timeseries.Panel:
    legend = common_builders.VizLegendOptions().display_mode(common.LegendDisplayMode.LIST).show_legend(True)
    made = timeseries.Panel().title(panel.title).description(panel.text).unit(panel.unit).datasource(DATASOURCE)
    made = (
        made.min(0).fill_opacity(10).span(WIDTH).height(HEIGHT).legend(legend.placement(common.LegendPlacement.BOTTOM))
    )
    if panel.stacked:
        made = made.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL)).fill_opacity(40)
    for number, (name, query) in enumerate(panel.lines.items()):
        made = made.with_target(prometheus.Dataquery().expr(query).legend_format(name).ref_id(chr(ord("A") + number)))
    return made


if __name__ == "__main__":
    sys.exit(main())
