import type { ReactNode } from 'react';

/** A page that says one thing. */
export function Card({ title, children }: { title: string; children: ReactNode }) {
  return (
    <main className="app-height grid place-items-center p-4">
      <section className="rise w-full max-w-md rounded-3xl border border-line bg-surface p-6 sm:p-8">
        <h1 className="mb-2 text-2xl font-semibold tracking-tight text-balance">{title}</h1>
        {children}
      </section>
    </main>
  );
}
