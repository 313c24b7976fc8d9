/** Tells that the connection is being restored. */
export function StatusBanner({ mediaAlive }: { mediaAlive: boolean }) {
  return (
    <div
      data-testid="status-banner"
      role="status"
      className="rise flex items-center justify-center gap-3 rounded-xl border border-warn/40 bg-warn/15 px-4 py-2.5 text-sm font-medium"
    >
      <span className="spinner shrink-0 text-warn" />
      {mediaAlive ? 'Connection trouble. Reconnecting…' : 'Connection lost. Reconnecting… You see the last picture.'}
    </div>
  );
}
