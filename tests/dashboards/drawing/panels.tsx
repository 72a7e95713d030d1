// Grafana's own components for the kinds of panels that the dashboards have.

import {
  applyFieldOverrides,
  cacheFieldDisplayNames,
  type DataFrame,
  type FieldConfigSource,
  getDisplayValueAlignmentFactors,
  getFieldDisplayValues,
  type GrafanaTheme2,
  type TimeRange,
  transformDataFrame,
} from '@grafana/data';
import { BarGauge, BigValue, TimeSeries, type UPlotConfigBuilder, VizRepeater } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import { firstValueFrom } from 'rxjs';

import { interpolate, type Target, type View } from './prometheus';

export interface Panel {
  id: number;
  type: string;
  title: string;
  description: string;
  gridPos: { x: number; y: number; w: number; h: number };
  targets: Target[];
  fieldConfig: FieldConfigSource;
  options: any;
  transformations?: any[];
}

export interface Mark {
  time: number; // milliseconds
  color: string;
}

export interface Drawn {
  panel: Panel;
  frames: DataFrame[];
  width: number;
  height: number;
  range: TimeRange;
  marks: Mark[];
  theme: GrafanaTheme2;
  view: View;
}

export async function prepare(panel: Panel, frames: DataFrame[], theme: GrafanaTheme2, view: View): Promise<DataFrame[]> {
  const changed = panel.transformations?.length
    ? await firstValueFrom(transformDataFrame(panel.transformations, frames))
    : frames;
  const shown = applyFieldOverrides({
    data: changed,
    fieldConfig: panel.fieldConfig,
    replaceVariables: (text) => interpolate(text, view),
    theme,
    timeZone: 'utc',
  });
  cacheFieldDisplayNames(shown);
  return shown;
}

export function Content(drawn: Drawn) {
  const empty = drawn.frames.every((frame) => frame.length === 0);
  if (drawn.panel.type === 'stat') {
    return <Numbers {...drawn} />;
  }
  if (empty) {
    return <div className="empty">No data</div>;
  }
  if (drawn.panel.type === 'timeseries') {
    return <Curves {...drawn} />;
  }
  if (drawn.panel.type === 'bargauge') {
    return <Bars {...drawn} />;
  }
  if (drawn.panel.type === 'table') {
    const { frames, width, height, panel } = drawn;
    return (
      <TableNG
        data={frames[0]}
        width={width}
        height={height}
        sortBy={panel.options.sortBy}
        noValue={panel.fieldConfig.defaults.noValue}
        fieldConfig={panel.fieldConfig}
      />
    );
  }
  throw new Error(`panel "${drawn.panel.title}": kind ${drawn.panel.type} is not drawn here`);
}

function Curves({ panel, frames, width, height, range, marks }: Drawn) {
  const mark = (builder: UPlotConfigBuilder) => {
    builder.addHook('draw', (plot) => marks.forEach((one) => drawMark(plot, one)));
    return null;
  };
  return (
    <TimeSeries
      frames={frames}
      width={width}
      height={height}
      timeRange={range}
      timeZone="utc"
      legend={panel.options.legend}
      options={panel.options}
      tweakAxis={(axis) => axis}
    >
      {mark}
    </TimeSeries>
  );
}

function drawMark(plot: uPlot, mark: Mark) {
  const x = Math.round(plot.valToPos(mark.time, 'x', true));
  const { left, top, width, height } = plot.bbox;
  if (x < left || x > left + width) {
    return;
  }
  const { ctx } = plot;
  const size = 5 * devicePixelRatio;
  ctx.save();
  ctx.strokeStyle = ctx.fillStyle = mark.color;
  ctx.lineWidth = devicePixelRatio;
  ctx.setLineDash([size, size]);
  ctx.beginPath();
  ctx.moveTo(x, top);
  ctx.lineTo(x, top + height);
  ctx.stroke();
  ctx.beginPath();
  ctx.moveTo(x - size, top + height + size);
  ctx.lineTo(x + size, top + height + size);
  ctx.lineTo(x, top + height);
  ctx.fill();
  ctx.restore();
}

function displayed({ panel, frames, theme, view }: Drawn) {
  return getFieldDisplayValues({
    data: frames,
    fieldConfig: panel.fieldConfig,
    reduceOptions: panel.options.reduceOptions,
    replaceVariables: (text) => interpolate(text, view),
    theme,
    sparkline: panel.options.graphMode === 'area',
    timeZone: 'utc',
  });
}

function Numbers(drawn: Drawn) {
  const { panel, width, height, theme } = drawn;
  const values = displayed(drawn);
  return (
    <VizRepeater
      source={drawn.frames}
      getValues={() => values}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderCounter={0}
      width={width}
      height={height}
      orientation={panel.options.orientation}
      autoGrid
      renderValue={({ value, alignmentFactors, count, ...size }) => (
        <BigValue
          {...size}
          value={value.display}
          count={count}
          sparkline={value.sparkline}
          colorMode={panel.options.colorMode}
          graphMode={panel.options.graphMode}
          justifyMode={panel.options.justifyMode}
          textMode={panel.options.textMode}
          alignmentFactors={alignmentFactors}
          text={panel.options.text}
          theme={theme}
        />
      )}
    />
  );
}

function Bars(drawn: Drawn) {
  const { panel, width, height, theme } = drawn;
  const values = displayed(drawn);
  return (
    <VizRepeater
      source={drawn.frames}
      getValues={() => values}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderCounter={0}
      width={width}
      height={height}
      minVizHeight={16}
      maxVizHeight={panel.options.maxVizHeight ?? 300}
      itemSpacing={8}
      orientation={panel.options.orientation}
      renderValue={({ value, alignmentFactors, orientation, ...size }) => (
        <BarGauge
          {...size}
          value={value.display}
          field={value.field}
          display={value.view?.getFieldDisplayProcessor(value.colIndex!)}
          orientation={orientation}
          displayMode={panel.options.displayMode}
          showUnfilled={panel.options.showUnfilled}
          valueDisplayMode={panel.options.valueMode}
          namePlacement={panel.options.namePlacement}
          alignmentFactors={alignmentFactors}
          text={panel.options.text}
          theme={theme}
        />
      )}
    />
  );
}
