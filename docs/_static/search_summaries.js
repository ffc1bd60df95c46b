"use strict";

/* A page that was opened from a disk may not fetch other pages. The texts of all pages are in one script beside this page. */
if (window.location.protocol === "file:") {
  const texts = new Promise((resolve) => {
    window.takePageTexts = resolve;
  });
  const script = document.createElement("script");
  script.src = "page_texts.js";
  document.head.appendChild(script);

  const root = new URL(".", window.location.href).href;
  window.fetch = async (address) => {
    const name = new URL(address, window.location.href).href.slice(root.length);
    return new Response((await texts)[decodeURIComponent(name)] ?? "");
  };
}
