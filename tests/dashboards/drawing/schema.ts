// The parts of a dashboard's JSON, as Grafana publishes their types, under names that differ.

import type { GraphFieldConfig, TableFieldOptions } from '@grafana/schema';
import type { Options as BarGauge } from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type { Options as Stat } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type { Options as Table } from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type { Options as TimeSeries } from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';
import type { Dashboard, Panel } from '@grafana/schema/dist/esm/raw/dashboard/x/Dashboard_types.gen';

export interface board extends Dashboard {}
export interface panel extends Panel {}
export interface bargauge extends BarGauge {}
export interface stat extends Stat {}
export interface table extends Table {}
export interface timeseries extends TimeSeries {}
export interface tableField extends TableFieldOptions {}
export interface timeseriesField extends GraphFieldConfig {}
