(() => {
  // The contrast of all words, or of all marks in drawings, with what stands behind them (WCAG 2.2).
  const what = /*what*/ 'words';
  const channels = (colour) => colour.match(/[\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = channels(colour).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      const alpha = channels(colour)[3];
      if (alpha === undefined || alpha > 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const says = (element) =>
    [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  const elements = [...document.body.querySelectorAll('*')].filter((element) => {
    if (element.closest('script, .skip, .unseen, title')) return false;
    if (what === 'marks') return element.matches('.plot circle, .plot .whisker, .marker path');
    return says(element);
  });
  return elements.map((element) => {
    const style = getComputedStyle(element);
    const drawn = element.namespaceURI.endsWith('svg');
    const colour = !drawn ? style.color : element.tagName === 'line' ? style.stroke : style.fill;
    const [one, two] = [light(colour), light(behind(element))].sort((a, b) => b - a);
    return { words: element.textContent.trim().slice(0, 40), ratio: (one + 0.05) / (two + 0.05) };
  });
})()
