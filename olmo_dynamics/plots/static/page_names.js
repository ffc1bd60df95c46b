// Names of the parts of a drawn picture, for readers who hear the page.
const nameParts = (place) => {
  place.querySelector("details > summary")?.setAttribute("aria-label", "Save this picture");
  for (const marks of place.querySelectorAll("g[aria-roledescription]:not([aria-label])")) marks.setAttribute("aria-label", marks.getAttribute("aria-roledescription"));
};
