import { type ReactNode, useEffect, useId, useRef } from 'react';
import { CloseIcon } from '../ui/icons';

export interface PanelProps {
  title: string;
  onClose: () => void;
  children: ReactNode;
}

/** A box over the stage: at the side on wide screens, at the bottom on phones. Escape closes it. */
export function Panel({ title, onClose, children }: PanelProps) {
  const box = useRef<HTMLElement>(null);
  const id = useId();

  useEffect(() => {
    const opener = document.activeElement;
    box.current?.focus();
    const onKey = (event: KeyboardEvent) => {
      if (event.key === 'Escape') onClose();
    };
    window.addEventListener('keydown', onKey);
    return () => {
      window.removeEventListener('keydown', onKey);
      if (opener instanceof HTMLElement && opener.isConnected) opener.focus();
    };
  }, [onClose]);

  return (
    <section
      ref={box}
      role="dialog"
      aria-labelledby={id}
      tabIndex={-1}
      className="rise absolute inset-x-0 bottom-0 z-30 flex max-h-full flex-col rounded-2xl border border-line bg-surface shadow-panel sm:right-0 sm:left-auto sm:w-80"
    >
      <div className="flex items-center justify-between py-1 pr-1 pl-4">
        <h2 id={id} className="font-semibold">
          {title}
        </h2>
        <button
          type="button"
          aria-label="Close"
          className="grid size-11 place-items-center rounded-xl text-muted hover:bg-raised hover:text-text"
          onClick={onClose}
        >
          <CloseIcon size={20} />
        </button>
      </div>
      <div className="min-h-0 overflow-y-auto px-4 pb-4">{children}</div>
    </section>
  );
}
