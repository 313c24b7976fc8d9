import tailwindcss from '@tailwindcss/vite';
import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';

/** The address of a running Zynk server, for `npm run dev`. */
const server = process.env.ZYNK_SERVER ?? 'http://localhost:7880';

export default defineConfig({
  base: '/',
  plugins: [react(), tailwindcss()],
  build: {
    outDir: '../dist',
    emptyOutDir: true,
    sourcemap: false,
    target: 'es2022',
    // Inlined data: URLs would need wider content security rules.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: {
      output: {
        // The SDK changes less often than the app, so browsers keep it cached over updates.
        manualChunks: (id) => (id.includes('node_modules/livekit-client') ? 'livekit' : undefined),
      },
    },
  },
  server: {
    proxy: {
      '/api': server,
      '/rtc': { target: server, ws: true },
    },
  },
});
