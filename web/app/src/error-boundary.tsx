import { Component, type ErrorInfo, type ReactNode } from 'react';
import { Button } from './ui/button';
import { Card } from './ui/card';

/** Shows a way out when a view throws, in place of a blank page. */
export class ErrorBoundary extends Component<{ children: ReactNode }, { error: Error | null }> {
  override state: { error: Error | null } = { error: null };

  static getDerivedStateFromError(error: unknown): { error: Error } {
    return { error: error instanceof Error ? error : new Error(String(error)) };
  }

  override componentDidCatch(error: unknown, info: ErrorInfo): void {
    console.error('a view failed', error, info.componentStack);
  }

  override render(): ReactNode {
    if (!this.state.error) return this.props.children;
    return (
      <Card title="Something broke on this page">
        <p data-testid="error-text" role="alert" className="text-muted">
          This is a fault of the page and not yours. Load it again to go on.
        </p>
        <p className="mt-3 rounded-lg bg-raised px-3 py-2 font-mono text-sm break-words text-muted">
          {this.state.error.message}
        </p>
        <Button className="mt-6 w-full" onClick={() => window.location.reload()}>
          Load again
        </Button>
      </Card>
    );
  }
}
