"""What a page in a browser has to be for everybody: scripts that say where it is not."""

# Texts whose contrast with what is behind them is below 4.5, as WCAG 2 has it: a list, empty.
POOR_CONTRASTS = """
() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (color) => color.slice(0, 3).map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const background = (node) => {
    for (; node; node = node.parentElement) {
      const color = rgba(getComputedStyle(node).backgroundColor);
      if (color[3] === 255) return color;
    }
  };
  const poor = [];
  for (const node of document.querySelectorAll("body *")) {
    const text = [...node.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!text || !node.checkVisibility() || node.disabled) continue;
    const [a, b] = [rgba(getComputedStyle(node).color), background(node)].map(luminance);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push(`${node.tagName} ${node.className} ${ratio.toFixed(2)}`);
  }
  return [...new Set(poor)];
}
"""
# Controls that whoever hears the page is told nothing of: their number, 0.
UNNAMED_CONTROLS = """
() => [...document.querySelectorAll("button, input, select")].filter((control) =>
  control.checkVisibility() && !(control.getAttribute("aria-label") || control.innerText
    || control.labels?.[0]?.innerText)).length
"""
