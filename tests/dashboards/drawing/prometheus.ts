// Queries of a dashboard, sent to Prometheus as Grafana's data source sends them: variables replaced, step chosen from
// the panel's width, one data frame for each series.

import { type DataFrame, type Field, FieldType, toDataFrame } from '@grafana/data';

export interface Period {
  from: number; // Unix time in seconds
  to: number;
}

export interface View extends Period {
  prometheus: string; // URL
  scrapeInterval: number; // seconds
  variables: Record<string, string>;
}

export interface Target {
  refId: string;
  expr: string;
  legendFormat: string;
  instant?: boolean;
  format?: string;
}

interface Series {
  metric: Record<string, string>;
  values?: [number, string][];
  value?: [number, string];
}

export function stepOf(view: View, points: number): number {
  return Math.max(Math.ceil((view.to - view.from) / points), view.scrapeInterval);
}

export function interpolate(text: string, view: View, step = view.scrapeInterval): string {
  const known: Record<string, string> = {
    __interval: `${step}s`,
    __rate_interval: `${Math.max(step + view.scrapeInterval, 4 * view.scrapeInterval)}s`,
    __range: `${Math.round(view.to - view.from)}s`,
    __range_s: `${Math.round(view.to - view.from)}`,
    __from: `${view.from * 1000}`,
    __to: `${view.to * 1000}`,
    ...view.variables,
  };
  return text.replace(/\$(?:\{(\w+)(?::\w+)?\}|(\w+))/g, (whole, braced, plain) => known[braced ?? plain] ?? whole);
}

export async function seriesOf(expr: string, view: View, step: number, instant: boolean): Promise<Series[]> {
  const query = new URLSearchParams({ query: interpolate(expr, view, step) });
  if (instant) {
    query.set('time', String(view.to));
  } else {
    query.set('start', String(Math.floor(view.from / step) * step));
    query.set('end', String(view.to));
    query.set('step', String(step));
  }
  const answer = await fetch(`${view.prometheus}/api/v1/query${instant ? '' : '_range'}?${query}`);
  const body = await answer.json();
  if (body.status !== 'success') {
    throw new Error(`${expr}: ${body.error}`);
  }
  return body.data.result;
}

export async function framesOf(targets: Target[], view: View, points: number): Promise<DataFrame[][]> {
  const step = stepOf(view, points);
  return Promise.all(
    targets.map(async (target) => {
      const found = await seriesOf(target.expr, view, step, Boolean(target.instant));
      if (target.format === 'table') {
        return [tableFrame(target, found, targets.length > 1)];
      }
      return found.map((one) => curveFrame(target, one, step));
    })
  );
}

function curveFrame(target: Target, series: Series, step: number): DataFrame {
  const points = withGaps(series.values ?? [series.value!], step);
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: points.map(([time]) => time * 1000) },
      {
        name: 'Value',
        type: FieldType.number,
        labels: series.metric,
        values: points.map(([, value]) => numberOf(value)),
        config: { displayNameFromDS: legendOf(target, series.metric) },
      },
    ],
  });
}

// A point without a value where the next one is missing: no line bridges the gap, and a lone point is drawn as a dot.
function withGaps(points: [number, string][], step: number): [number, string][] {
  return points.flatMap(([time, value], index) => {
    const next = points[index + 1]?.[0] ?? Infinity;
    return next - time > 1.5 * step ? [[time, value], [time + step, 'NaN']] : [[time, value]];
  });
}

function tableFrame(target: Target, found: Series[], several: boolean): DataFrame {
  const labels = [...new Set(found.flatMap((one) => Object.keys(one.metric)))].sort();
  const fields: Partial<Field>[] = [
    { name: 'Time', type: FieldType.time, values: found.map((one) => one.value![0] * 1000) },
    ...labels.map((name) => ({ name, type: FieldType.string, values: found.map((one) => one.metric[name] ?? '') })),
    {
      name: several ? `Value #${target.refId}` : 'Value',
      type: FieldType.number,
      values: found.map((one) => numberOf(one.value![1])),
    },
  ];
  return toDataFrame({ refId: target.refId, fields: fields.map((field) => ({ config: {}, ...field })) });
}

function legendOf(target: Target, labels: Record<string, string>): string {
  return target.legendFormat.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name) => labels[name] ?? '');
}

function numberOf(text: string): number | null {
  const value = Number(text.replace('Inf', 'Infinity'));
  return Number.isNaN(value) ? null : value;
}
