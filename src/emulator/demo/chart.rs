//! A bar chart in code: a binary sample would be a blob in the tree that nobody can review.

const WIDTH: u32 = 640;
const HEIGHT: u32 = 400;
const LEFT: u32 = 60;
const RIGHT: u32 = 620;
const TOP: u32 = 40;
const BASE: u32 = 350;

const PAPER: [u8; 3] = [0xff, 0xff, 0xff];
const GRID: [u8; 3] = [0xe2, 0xe6, 0xea];
const INK: [u8; 3] = [0x33, 0x3f, 0x48];
const BARS: [[u8; 3]; 4] = [[0x4c, 0x78, 0xa8], [0x72, 0xb7, 0xb2], [0xf5, 0x8a, 0x18], [0xe4, 0x57, 0x56]];

/// Rows of the glyphs 0 to 9 and Q, three pixels wide, the leftmost the highest bit.
const GLYPHS: [[u8; 5]; 11] = [
    [7, 5, 5, 5, 7],
    [2, 6, 2, 2, 7],
    [7, 1, 7, 4, 7],
    [7, 1, 7, 1, 7],
    [5, 5, 7, 1, 1],
    [7, 4, 7, 1, 7],
    [7, 4, 7, 5, 7],
    [7, 1, 2, 2, 2],
    [7, 5, 7, 5, 7],
    [7, 5, 7, 1, 7],
    [2, 5, 5, 6, 3],
];

struct Canvas(Vec<u8>);

impl Canvas {
    fn fill(&mut self, x: u32, y: u32, width: u32, height: u32, colour: [u8; 3]) {
        for row in y..(y + height).min(HEIGHT) {
            for column in x..(x + width).min(WIDTH) {
                let at = ((row * WIDTH + column) * 3) as usize;
                self.0[at..at + 3].copy_from_slice(&colour);
            }
        }
    }

    /// Text of digits and `Q`, around a middle.
    fn text(&mut self, middle: u32, y: u32, text: &str) {
        const DOT: u32 = 3;
        let advance = 4 * DOT;
        let mut x = middle.saturating_sub(text.len() as u32 * advance / 2);
        for c in text.chars() {
            let glyph = c.to_digit(10).map_or(&GLYPHS[10], |digit| &GLYPHS[digit as usize]);
            for (row, bits) in (0..).zip(glyph) {
                for column in (0..3).filter(|column| bits & (4 >> column) != 0) {
                    self.fill(x + column * DOT, y + row * DOT, DOT, DOT, INK);
                }
            }
            x += advance;
        }
    }
}

/// A PNG of one bar for each value, the quarters of a year beneath.
pub(super) fn bars(values: &[u32]) -> Vec<u8> {
    let mut canvas = Canvas(PAPER.repeat((WIDTH * HEIGHT) as usize));
    let highest = values.iter().copied().max().unwrap_or(1).max(1);
    let room = BASE - TOP - 20;
    for step in 0..=4 {
        canvas.fill(LEFT, BASE - room * step / 4, RIGHT - LEFT, 1, GRID);
    }
    let slot = (RIGHT - LEFT) / (values.len() as u32).max(1);
    for (n, value) in (0..).zip(values) {
        let height = room * value / highest;
        let x = LEFT + n * slot + slot / 5;
        let width = slot * 3 / 5;
        canvas.fill(x, BASE - height, width, height, BARS[n as usize % BARS.len()]);
        canvas.text(x + width / 2, BASE - height - 22, &value.to_string());
        canvas.text(x + width / 2, BASE + 14, &format!("Q{}", n + 1));
    }
    canvas.fill(LEFT, TOP, 2, BASE - TOP, INK);
    canvas.fill(LEFT, BASE, RIGHT - LEFT, 2, INK);
    encode(&canvas.0)
}

fn encode(pixels: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, WIDTH, HEIGHT);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().expect("a vector takes bytes and the header is sound");
    writer.write_image_data(pixels).expect("the pixels fill the image");
    writer.finish().expect("a vector takes bytes");
    file
}
