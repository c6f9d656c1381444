"""How the page looks: its theme, its style sheet, and the script that lets the keyboard move sliders of pictures."""

import gradio as gr


CSS = """
.gradio-container { margin: 0 auto !important; max-width: 1360px !important;
  padding: clamp(4px, 2vw, 26px) !important; }
.app { padding: clamp(4px, 2vw, 32px) !important; }
footer { display: none !important; }
#title { padding: 0 2px 4px; }
#title h1 { font-size: 26px; font-weight: 650; letter-spacing: -0.02em; margin: 0 0 4px; }
#title p { color: var(--body-text-color-subdued); font-size: 15px; margin: 0; max-width: 900px; }
#about, #foot { color: var(--body-text-color-subdued); font-size: 13.5px; line-height: 1.6; padding: 4px 2px 0; }
#about { max-width: 900px; }
#about a { color: var(--link-text-color); margin: 0; padding: 0; text-decoration: underline; }
#foot { font-size: 12.5px; }
.card { background: none; padding: 0 2px; }
.card .prose { max-width: 900px; }

#examples { contain: inline-size; display: flex; flex-wrap: nowrap; gap: 12px; overflow-x: auto; padding: 3px;
  scroll-snap-type: x mandatory; }
#examples > button { align-items: stretch; border-radius: 12px; display: flex; flex: 1 0 116px; flex-direction: column;
  font-size: 12.5px; font-weight: 400; gap: 6px; line-height: 1.35; min-width: 116px; padding: 6px 6px 8px;
  scroll-snap-align: start; text-align: left; white-space: pre-line; }
#examples > button::first-line { font-weight: 600; }
#examples > button::before { aspect-ratio: 176 / 104; background-position: center; background-size: cover;
  border-radius: 8px; content: ""; display: block; image-rendering: auto; width: 100%; }
button:focus-visible, input:focus-visible, [role=slider]:focus-visible, [role=tab]:focus-visible {
  outline: 2px solid var(--color-accent) !important; outline-offset: 2px; }

#scene, #work { background: var(--background-fill-primary); border: 1px solid var(--border-color-primary);
  border-radius: 14px; gap: 14px; padding: 20px; }
#work .tab-wrapper { padding-bottom: 4px; }
#scene .form, #work .form { background: none; gap: 22px; }
#pixel .form { flex-wrap: nowrap; }
.wrap:has(> .error) { display: none !important; }  /* the message says it */
.figure { gap: 6px !important; }
.picture { border-radius: 8px !important; }
.picture img { border-radius: 8px; image-rendering: pixelated; width: 100%; }
.dark .picture .icon-button-wrapper { background: var(--button-secondary-background-fill); }
.picture.clickable img { cursor: crosshair; }
#labels h2 { font-size: 22px; overflow-wrap: anywhere; }
#labels * { font-family: inherit; }
#segment { margin-top: 10px; }
.caption { color: var(--body-text-color-subdued); font-size: 13px; line-height: 1.5; overflow-wrap: anywhere; }
.caption b { color: var(--body-text-color); font-weight: 600; }
.notice { background: #fff7e6; border-radius: 8px; color: #7a5410; font-size: 13px; line-height: 1.5; margin-top: 8px;
  overflow-wrap: anywhere; padding: 8px 12px; }
.dark .notice { background: #3a2d10; color: #f3d9a0; }

table.scores { border: 0 !important; border-collapse: collapse; font-size: 13.5px; margin: 0; width: 100%; }
table.scores tr, table.scores tbody, table.scores thead { border: 0 !important; }
table.scores th, table.scores td { background: none; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important;
  color: var(--body-text-color); padding: 8px 6px; text-align: right; font-variant-numeric: tabular-nums; white-space:
  nowrap; }
table.scores th { color: var(--body-text-color-subdued); font-size: 12.5px; font-weight: 500; }
table.scores th:first-child, table.scores td:first-child { text-align: left; white-space: normal; }
table.scores tr.ours td { background: #0d948822; }
table.scores td.best { font-weight: 650; }

.legend { color: var(--body-text-color); display: grid; font-size: 13.5px; gap: 7px; }
.legend div { align-items: center; display: grid; gap: 10px; grid-template-columns: 16px 1fr auto 90px; }
.legend i { border-radius: 4px; height: 14px; width: 14px; }
.legend span { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; text-align: right; }
#change-hint:has(~ #change-summary .legend) { display: none; }
.ramp { border-radius: 5px; height: 9px; margin: 3px 0 2px; }
.ends { align-items: start; display: flex; justify-content: space-between; gap: 12px; }
.ends span:first-child, .ends span:last-child { white-space: nowrap; }

.spectrum { --true: #0f766e; --made: #c2410c; color: var(--body-text-color); display: block; width: 100%; }
.dark .spectrum { --true: #5eead4; --made: #fdba74; }
.spectrum text { fill: var(--body-text-color-subdued); font-size: 13px; font-variant-numeric: tabular-nums; }
.spectrum text.seen { fill: var(--body-text-color); font-weight: 650; }
.spectrum text.small { font-size: 11px; }
.spectrum .grid { stroke: var(--border-color-primary); }
.spectrum .true { stroke: var(--true); }
.spectrum .made { stroke: var(--made); }
.spectrum polyline, .spectrum g line { fill: none; stroke-width: 2; }
.spectrum polyline.made, .spectrum g line.made { stroke-dasharray: 6 4; }
.spectrum circle { fill: var(--background-fill-primary); stroke-width: 2; }
.spectrum circle.true.dot { fill: var(--true); }

@media (max-width: 640px) {
  #scene, #work { min-width: 100% !important; padding: 14px; }
  .legend div { grid-template-columns: 16px 1fr auto; }
  .legend div span:last-child { grid-column: 2 / -1; text-align: left; }
  .spectrum text { font-size: 20px; }
  .spectrum text.small { display: none; }
  .spectrum g { display: none; }
}
"""

# Gradio's slider between two pictures is for the mouse alone, and its pictures have no alternative texts. At the end of
# every upload, its client warns in the console of a method of its own that does nothing.
JS = """
() => {
  const warn = console.warn;
  console.warn = (...values) => values[0] === 'Method not implemented.' || warn(...values);
  const drag = (handle, shift) => {
    const box = handle.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
    const send = (target, type, x) => target.dispatchEvent(
      new MouseEvent(type, {bubbles: true, cancelable: true, clientX: x, clientY: y, view: window}));
    send(handle, 'mousedown', x); send(window, 'mousemove', x + shift); send(window, 'mouseup', x + shift);
  };
  const prepare = () => document.querySelectorAll('.compare').forEach((block) => {
    const [before, after] = block.closest('.figure').querySelector('[data-names]').dataset.names.split('|');
    block.querySelectorAll('img').forEach((image, i) => { image.alt ||= i ? after : before; });
    const handle = block.querySelector('.outer');
    if (!handle || handle.tabIndex === 0) return;
    handle.setAttribute('role', 'slider'); handle.tabIndex = 0;
    handle.setAttribute('aria-label', `${before} on the left, ${after} on the right: move with the arrow keys`);
    handle.setAttribute('aria-valuemin', 0); handle.setAttribute('aria-valuemax', 100);
    handle.setAttribute('aria-valuenow', 50);
    handle.addEventListener('keydown', (event) => {
      const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
      if (!step) return;
      event.preventDefault();
      const width = block.querySelector('img').getBoundingClientRect().width;
      drag(handle.querySelector('.inner') || handle, step * width / 20);
      const now = +handle.getAttribute('aria-valuenow') + 5 * step;
      handle.setAttribute('aria-valuenow', Math.min(100, Math.max(0, now)));
    });
  });
  new MutationObserver(prepare).observe(document.body, {childList: true, subtree: true});
  prepare();
}
"""


def theme() -> gr.Theme:
    """Return colours, fonts and distances; all fonts are the system's own."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Liberation Sans", "sans-serif"]
    return gr.themes.Base(
        primary_hue="teal", neutral_hue="slate", font=fonts, font_mono=["ui-monospace", "monospace"], radius_size="md"
    ).set(
        body_background_fill="#f4f7f7",
        body_background_fill_dark="#10181d",
        body_text_color_subdued="#51636d",
        body_text_color_subdued_dark="#a9b8c0",
        block_border_width="0px",
        block_label_text_size="13px",
        block_padding="0px",
        block_shadow="none",
        block_title_text_color="#51636d",
        block_title_text_size="13px",
        button_primary_background_fill="#0f766e",
        button_primary_background_fill_dark="#0f766e",
        button_primary_background_fill_hover="#115e59",
        button_primary_background_fill_hover_dark="#115e59",
        button_secondary_background_fill="#e6eded",
        button_secondary_background_fill_hover="#dbe4e4",
        button_secondary_text_color="#0f1e26",
        button_secondary_background_fill_dark="#24323a",
        button_secondary_background_fill_hover_dark="#2d3d46",
        button_secondary_text_color_dark="#e6edf0",
        block_background_fill_dark="transparent",
        block_title_text_color_dark="#a9b8c0",
        checkbox_border_color_dark="#a9b8c0",
        input_background_fill_dark="#1d2930",
        input_background_fill="#f5f8f8",
        layout_gap="14px",
    )
