import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    environment: 'happy-dom',
    include: ['packages/*/tests/**/*.test.ts', 'app/tests/**/*.test.{ts,tsx}'],
    restoreMocks: true,
  },
});
