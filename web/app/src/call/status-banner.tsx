/** Tells that the connection is being restored. */
export function StatusBanner({ mediaAlive, serverRestarting }: { mediaAlive: boolean; serverRestarting: boolean }) {
  const trouble = mediaAlive
    ? 'Connection trouble. Reconnecting…'
    : 'Connection lost. Reconnecting… You see the last picture.';
  return (
    <div
      data-testid="status-banner"
      role="status"
      className="rise flex items-center justify-center gap-3 rounded-xl border border-warn/40 bg-warn/15 px-4 py-2.5 text-sm font-medium"
    >
      <span className="spinner shrink-0 text-warn" />
      {serverRestarting ? 'The server is restarting. Reconnecting…' : trouble}
    </div>
  );
}
