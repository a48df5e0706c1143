import { defineConfig } from "vite";

export default defineConfig({
  base: "./", // it may be served below any path
  build: { target: "es2023", assetsInlineLimit: 0 }, // the page's policy allows no data: URLs
  worker: { format: "es" },
});
