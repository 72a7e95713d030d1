// A dashboard's JSON on Grafana's grid of 24 columns. `window.drawing` has the dashboard and what to ask for.

import '@fontsource/inter/400.css';
import '@fontsource/inter/500.css';

import {
  createTheme,
  dateTime,
  identityOverrideProcessor,
  standardFieldConfigEditorRegistry,
  standardTransformers,
  standardTransformersRegistry,
  ThemeContext,
  type TimeRange,
} from '@grafana/data';
import { GlobalStyles, PanelChrome, PanelContextProvider, PortalContainer } from '@grafana/ui';
import { EventBusSrv } from '@grafana/data';
import { createRoot } from 'react-dom/client';

import { Content, type Drawn, type Mark, type Panel, prepare } from './panels';
import { framesOf, interpolate, seriesOf, stepOf, type View } from './prometheus';

const CELL = 30; // pixels, and the space between panels
const SPACE = 8;
const STANDARD = ['displayName', 'unit', 'min', 'max', 'decimals', 'noValue', 'color', 'thresholds', 'mappings', 'links'];
const CURVES = [
  'drawStyle', 'lineInterpolation', 'lineWidth', 'lineStyle', 'fillOpacity', 'gradientMode', 'showPoints', 'pointSize',
  'spanNulls', 'insertNulls', 'stacking', 'scaleDistribution', 'axisPlacement', 'axisLabel', 'axisSoftMin',
  'axisSoftMax', 'barAlignment', 'barWidthFactor', 'barMaxWidth', 'thresholdsStyle', 'hideFrom',
];
const CELLS = ['cellOptions', 'width', 'minWidth', 'align', 'filterable', 'inspect'];

interface Drawing {
  board: { title: string; panels: Panel[]; annotations?: { list: any[] }; templating?: { list: any[] } };
  view: View;
  width: number;
}

declare global {
  interface Window {
    drawing: Drawing;
    drawn?: { points?: Record<string, number[]>; error?: string };
  }
}

function register() {
  const property = (name: string, custom: boolean) => ({
    id: custom ? `custom.${name}` : name,
    path: name,
    name,
    isCustom: custom,
    process: identityOverrideProcessor,
    shouldApply: () => true,
    override: () => null,
    editor: () => null,
  });
  const properties = [
    ...STANDARD.map((name) => property(name, false)),
    ...[...CURVES, ...CELLS].map((name) => property(name, true)),
  ];
  standardFieldConfigEditorRegistry.setInit(() => properties as any);
  standardTransformersRegistry.setInit(
    () =>
      [standardTransformers.mergeTransformer, standardTransformers.organizeFieldsTransformer].map((one) => ({
        id: one.id,
        name: one.name,
        transformation: () => Promise.resolve(one),
      })) as any
  );
}

// The lowest threshold is minus infinity, which JSON writes as null.
function restoreInfinity({ fieldConfig }: Panel) {
  const own = fieldConfig.overrides.flatMap(({ properties }) => properties.filter(({ id }) => id === 'thresholds'));
  for (const thresholds of [fieldConfig.defaults.thresholds, ...own.map(({ value }) => value)]) {
    thresholds?.steps.filter((step: any) => step.value === null).forEach((step: any) => (step.value = -Infinity));
  }
}

async function marksOf({ board, view, width }: Drawing, color: (name: string) => string): Promise<Mark[]> {
  const step = stepOf(view, width);
  const own = (board.annotations?.list ?? []).filter((one) => !one.builtIn && one.enable);
  const all = await Promise.all(
    own.map(async (one) => {
      const found = await seriesOf(one.target?.expr ?? one.expr, view, step, false);
      return found.map((series) => ({ time: series.values![0][0] * 1000, color: color(one.iconColor) }));
    })
  );
  return all.flat();
}

function size({ gridPos }: Panel, width: number) {
  const column = (width + SPACE) / 24;
  return {
    left: gridPos.x * column,
    top: gridPos.y * (CELL + SPACE),
    width: gridPos.w * column - SPACE,
    height: gridPos.h * (CELL + SPACE) - SPACE,
  };
}

function Cell({ drawn, place }: { drawn: Omit<Drawn, 'width' | 'height'>; place: ReturnType<typeof size> }) {
  const { panel } = drawn;
  return (
    <div style={{ position: 'absolute', ...place }}>
      <PanelChrome title={panel.title} description={panel.description} width={place.width} height={place.height}>
        {(width, height) => <Content {...drawn} width={width} height={height} />}
      </PanelChrome>
    </div>
  );
}

function Heading({ title, place }: { title: string; place: ReturnType<typeof size> }) {
  return (
    <div className="heading" style={{ position: 'absolute', ...place }}>
      {title}
    </div>
  );
}

function Header({ drawing }: { drawing: Drawing }) {
  const { board, view } = drawing;
  const shown = (board.templating?.list ?? []).filter((one) => one.hide !== 2 && one.type === 'query');
  const clock = (seconds: number) => new Date(seconds * 1000).toISOString().slice(0, 16).replace('T', ' ');
  return (
    <header>
      <h1>{board.title}</h1>
      {shown.map((one) => (
        <span key={one.name}>
          <b>{one.label}</b> {view.variables[one.name] === one.allValue ? 'All' : view.variables[one.name]}
        </span>
      ))}
      <span>{`${clock(view.from)} to ${clock(view.to)} UTC`}</span>
    </header>
  );
}

async function main() {
  register();
  const theme = createTheme({ colors: { mode: 'dark' } });
  const { drawing } = window;
  const { board, view, width } = drawing;
  const marks = await marksOf(drawing, (name) => theme.visualization.getColorByName(name));
  const range: TimeRange = {
    from: dateTime(view.from * 1000),
    to: dateTime(view.to * 1000),
    raw: { from: dateTime(view.from * 1000), to: dateTime(view.to * 1000) },
  };
  const cells = await Promise.all(
    board.panels.map(async (panel) => {
      const place = size(panel, width);
      if (panel.type === 'row') {
        return { place, title: panel.title, points: [] };
      }
      restoreInfinity(panel);
      const found = await framesOf(panel.targets, view, place.width);
      const frames = await prepare(panel, found.flat(), theme, view);
      const points = found.map((frames) => frames.reduce((sum, frame) => sum + frame.length, 0));
      return { place, title: panel.title, points, drawn: { panel, frames, range, marks, theme, view } };
    })
  );
  const bottom = Math.max(...cells.map(({ place }) => place.top + place.height));
  createRoot(document.getElementById('root')!).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <PortalContainer />
      <PanelContextProvider value={{ eventsScope: 'page', eventBus: new EventBusSrv() }}>
        <Header drawing={drawing} />
        <main style={{ height: bottom, width }}>
          {cells.map(({ drawn, place, title }) =>
            drawn ? <Cell key={drawn.panel.id} drawn={drawn} place={place} /> : <Heading key={title} title={title} place={place} />
          )}
        </main>
      </PanelContextProvider>
    </ThemeContext.Provider>
  );
  return Object.fromEntries(cells.filter(({ drawn }) => drawn).map(({ title, points }) => [title, points]));
}

main().then(
  (points) => (window.drawn = { points }),
  (error) => (window.drawn = { error: String(error?.stack ?? error) })
);
