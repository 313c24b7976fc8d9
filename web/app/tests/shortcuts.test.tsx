import { act } from 'react';
import { createRoot } from 'react-dom/client';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { useShortcuts } from '../src/ui/use-shortcuts';

const press = vi.fn();
let root: ReturnType<typeof createRoot>;

function Page() {
  useShortcuts({ m: press });
  return (
    <>
      <input />
      <button type="button">button</button>
    </>
  );
}

function type(target: Element, init: KeyboardEventInit): void {
  target.dispatchEvent(new KeyboardEvent('keydown', { bubbles: true, cancelable: true, ...init }));
}

beforeEach(() => {
  vi.stubGlobal('IS_REACT_ACT_ENVIRONMENT', true);
  const box = document.body.appendChild(document.createElement('div'));
  root = createRoot(box);
  act(() => root.render(<Page />));
  press.mockClear();
});

afterEach(() => {
  act(() => root.unmount());
  document.body.replaceChildren();
});

const find = (selector: string): Element => {
  const element = document.querySelector(selector);
  if (!element) throw new Error(`no ${selector}`);
  return element;
};

describe('shortcuts', () => {
  it('act in either case and from a focused button', () => {
    type(document.body, { key: 'm' });
    type(find('button'), { key: 'M' });
    expect(press).toHaveBeenCalledTimes(2);
  });

  it('stay quiet while somebody types', () => {
    type(find('input'), { key: 'm' });
    expect(press).not.toHaveBeenCalled();
  });

  it.each([{ ctrlKey: true }, { metaKey: true }, { altKey: true }, { repeat: true }])('ignore %o', (modifier) => {
    type(document.body, { key: 'm', ...modifier });
    expect(press).not.toHaveBeenCalled();
  });
});
