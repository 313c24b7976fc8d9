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
    // The SDK with its protobuf types is one chunk of this size.
    chunkSizeWarningLimit: 700,
    // Inlined data: URLs would need wider content security rules.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: {
      output: {
        // Libraries change less often than the app, so browsers keep them cached over updates.
        manualChunks: (id) => {
          if (!id.includes('/node_modules/')) return undefined;
          return /\/node_modules\/(react|react-dom|scheduler)\//.test(id) ? 'react' : 'livekit';
        },
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
