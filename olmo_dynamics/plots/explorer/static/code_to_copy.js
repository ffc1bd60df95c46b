function render({ model, el }) {
  const button = document.createElement("button");
  const code = document.createElement("pre");
  button.textContent = "Copy the code";
  button.className = "jupyter-button widget-button olmo-dynamics-copy";
  code.className = "olmo-dynamics-code";
  const show = () => (code.textContent = model.get("code"));
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(model.get("code"));
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code); // where the clipboard is closed to the page, the code is at least selected
      button.textContent = "Selected: press Ctrl+C";
    }
    setTimeout(() => (button.textContent = "Copy the code"), 2000);
  });
  model.on("change:code", show);
  show();
  el.append(button, code);
  return () => model.off("change:code", show);
}
export default { render };
