/* Plays the small figures: every canvas holds its own coordinates, two bytes a joint. Errors are told in <html data-error>. */
(function () {
  'use strict';
  var root = document.documentElement;
  window.addEventListener('error', function (event) { root.dataset.error = event.message; });

  var COLOURS = ['#4d4d4d', '#e69f00', '#56b4e9', '#d55e00', '#0072b2', '#969696']; // the parts, as in PART_NAMES
  var ABSENT = 255;
  var figures = Array.prototype.map.call(document.querySelectorAll('canvas.clip'), function (canvas) {
    var text = atob(canvas.dataset.clip), bytes = new Uint8Array(text.length);
    for (var i = 0; i < text.length; i++) { bytes[i] = text.charCodeAt(i); }
    var bones = canvas.closest('.clips').dataset.bones.split(' ').map(function (bone) {
      return bone.split('.').map(Number);
    });
    return {
      canvas: canvas, bytes: bytes, bones: bones, frames: +canvas.dataset.frames, joints: +canvas.dataset.joints,
      seen: true
    };
  });

  function draw(figure, frame) {
    var pen = figure.canvas.getContext('2d'), wide = figure.canvas.width, high = figure.canvas.height;
    var start = 2 * figure.joints * frame, half = high / 2;
    pen.fillStyle = '#ffffff';
    pen.fillRect(0, 0, wide, high);
    function place(joint) {
      var x = figure.bytes[start + 2 * joint], y = figure.bytes[start + 2 * joint + 1];
      return x === ABSENT ? null : [wide / 2 + (x - 127) / 127 * half, half + (y - 127) / 127 * half];
    }
    pen.lineWidth = high / 48;
    pen.lineCap = 'round';
    figure.bones.forEach(function (bone) {
      var a = place(bone[0]), b = place(bone[1]);
      if (!a || !b) { return; }
      pen.strokeStyle = COLOURS[bone[2]];
      pen.beginPath();
      pen.moveTo(a[0], a[1]);
      pen.lineTo(b[0], b[1]);
      pen.stroke();
    });
    pen.fillStyle = '#333333';
    for (var joint = 0; joint < figure.joints; joint++) {
      var at = place(joint);
      if (!at) { continue; }
      pen.beginPath();
      pen.arc(at[0], at[1], high / 90, 0, 7);
      pen.fill();
    }
  }

  if (window.IntersectionObserver) { // what is out of sight need not move
    var eye = new IntersectionObserver(function (entries) {
      entries.forEach(function (entry) {
        figures.forEach(function (figure) {
          if (figure.canvas === entry.target) { figure.seen = entry.isIntersecting; }
        });
      });
    });
    figures.forEach(function (figure) { eye.observe(figure.canvas); });
  }

  var tick = 0, timer = null, buttons = document.querySelectorAll('button.play');
  function step() {
    tick += 1;
    figures.forEach(function (figure) { if (figure.seen) { draw(figure, tick % figure.frames); } });
  }
  function play(on) {
    if (timer !== null) { window.clearInterval(timer); }
    timer = on ? window.setInterval(step, 80) : null;
    Array.prototype.forEach.call(buttons, function (button) { button.textContent = on ? 'Pause' : 'Play'; });
  }
  Array.prototype.forEach.call(buttons, function (button) {
    button.addEventListener('click', function () { play(timer === null); });
  });

  figures.forEach(function (figure) { draw(figure, Math.floor(figure.frames / 2)); });
  root.dataset.drawn = String(figures.length);
  var calm = window.matchMedia('(prefers-reduced-motion: reduce)');
  play(figures.length > 0 && !calm.matches);
  if (calm.addEventListener) { calm.addEventListener('change', function () { play(!calm.matches); }); }
})();
