//! Compiles the device kernels for the host's processor and runs them there.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// An element type of the kernels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Element {
    F32,
    Bf16,
    F16,
}

impl Element {
    fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    pub(crate) fn size(self) -> usize {
        if self == Self::F32 {
            4
        } else {
            2
        }
    }

    /// Returns the largest relative error of a rounded result, and the largest absolute error of a
    /// subnormal one.
    pub(crate) fn rounding(self) -> (f64, f64) {
        match self {
            Self::F32 => (0.0, 1e-38),
            Self::Bf16 => (1.0 / 256.0, 1e-38),
            Self::F16 => (1.0 / 2048.0, 3e-8),
        }
    }

    /// Encodes values near `x`: rounded towards zero, subnormal ones to zero.
    pub(crate) fn encode(self, x: &[f32]) -> Vec<u8> {
        match self {
            Self::F32 => x.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::Bf16 => {
                x.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect()
            }
            Self::F16 => x.iter().flat_map(|&x| to_f16(x).to_le_bytes()).collect(),
        }
    }

    pub(crate) fn decode(self, bytes: &[u8]) -> Vec<f64> {
        let halves = || bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        match self {
            Self::F32 => decode_f32(bytes),
            Self::Bf16 => halves().map(|b| f32::from_bits(u32::from(b) << 16).into()).collect(),
            Self::F16 => halves().map(from_f16).collect(),
        }
    }
}

fn to_f16(x: f32) -> u16 {
    let sign = ((x.to_bits() >> 16) & 0x8000) as u16;
    let magnitude = x.abs();
    sign | match magnitude {
        _ if x.is_nan() => 0x7e00,
        f32::INFINITY => 0x7c00,
        _ if magnitude >= 65504.0 => 0x7bff,
        _ if magnitude < 6.2e-5 => 0,
        _ => ((magnitude.to_bits() - (112 << 23)) >> 13) as u16,
    }
}

fn from_f16(bits: u16) -> f64 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from(bits >> 10 & 31);
    let mantissa = f64::from(bits & 1023) / 1024.0;
    sign * match exponent {
        0 => mantissa * 2f64.powi(-14),
        31 if mantissa == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + mantissa) * 2f64.powi(exponent - 15),
    }
}

pub(crate) fn encode_f32(x: &[f32]) -> Vec<u8> {
    Element::F32.encode(x)
}

pub(crate) fn decode_f32(bytes: &[u8]) -> Vec<f64> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).into()).collect()
}

pub(crate) fn encode_u32(x: &[u32]) -> Vec<u8> {
    x.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// An argument of a kernel.
#[derive(Clone)]
pub(crate) enum Argument {
    /// A buffer that starts some bytes after an address divisible by 64.
    Buffer(Vec<u8>, usize),
    /// The buffer of an earlier argument.
    Same(u32),
    U32(u32),
    F32(f32),
}

impl Argument {
    /// Creates an aligned buffer.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self::Buffer(bytes, 0)
    }

    /// Creates an aligned buffer of NaN for the kernel to fill.
    pub(crate) fn out(bytes: usize) -> Self {
        Self::new(vec![0xff; bytes])
    }

    fn write(&self, request: &mut Vec<u8>) {
        let (kind, place, bytes) = match self {
            Self::Buffer(bytes, start) => (0, *start as u32, bytes.clone()),
            Self::Same(place) => (1, *place, vec![]),
            Self::U32(x) => (2, 0, x.to_le_bytes().to_vec()),
            Self::F32(x) => (2, 0, x.to_le_bytes().to_vec()),
        };
        request.extend(encode_u32(&[kind, place, bytes.len() as u32]));
        request.extend(bytes);
    }
}

/// The dialect whose prelude precedes the kernels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Dialect {
    Host,
    Metal,
}

/// The compiled kernels of one dialect and element type.
pub(crate) struct Machine {
    pub(crate) element: Element,
    dialect: Dialect,
    driver: RefCell<Driver>,
    worst: RefCell<BTreeMap<String, f64>>,
}

/// The process that runs the kernels, and the folder with its program.
struct Driver {
    process: Child,
    _folder: tempfile::TempDir,
}

impl Driver {
    fn start(folder: tempfile::TempDir) -> Self {
        let process = Command::new(folder.path().join("driver"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { process, _folder: folder }
    }

    /// Sends a launch and reads buffers of the given sizes; fails if the process does.
    fn run(&mut self, request: &[u8], sizes: &[usize]) -> std::io::Result<Vec<Vec<u8>>> {
        self.process.stdin.as_mut().unwrap().write_all(request)?;
        let output = self.process.stdout.as_mut().unwrap();
        let read = |&size: &usize| {
            let mut bytes = vec![0; size];
            output.read_exact(&mut bytes)?;
            Ok(bytes)
        };
        sizes.iter().map(read).collect()
    }

    /// Returns how the process ended.
    fn reason(&mut self) -> String {
        drop(self.process.stdin.take());
        let mut message = String::new();
        self.process.stderr.as_mut().unwrap().read_to_string(&mut message).unwrap();
        format!("{} {message}", self.process.wait().unwrap())
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

impl Machine {
    /// Compiles the kernels. Without a C++ compiler it prints a note and returns `None`, or panics
    /// on continuous integration.
    pub(crate) fn compile(dialect: Dialect, element: Element) -> Option<Self> {
        if Command::new("c++").arg("--version").output().is_err() {
            assert!(std::env::var_os("CI").is_none(), "no C++ compiler `c++`");
            println!("skipped: no C++ compiler `c++`");
            return None;
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("c++");
        // Fortified jumps refuse to leave a stack.
        command.args(["-std=c++17", "-O1", "-w", "-U_FORTIFY_SOURCE"]);
        command.arg(format!("-DELEMENT_{}", element.name()));
        command.args((dialect == Dialect::Metal).then_some("-DMETAL"));
        command
            .arg("-I")
            .arg(root.join("src/kernels/gpu"))
            .arg("-I")
            .arg(root.join("tests/gpu_host"));
        command
            .arg(root.join("tests/gpu_host/driver.cpp"))
            .arg("-o")
            .arg(folder.path().join("driver"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let driver = RefCell::new(Driver::start(folder));
        Some(Self { element, dialect, driver, worst: RefCell::default() })
    }

    /// Runs a kernel and returns the buffers among its arguments, in order.
    pub(crate) fn run(
        &self,
        kernel: &str,
        groups: usize,
        threads: usize,
        arguments: &[Argument],
    ) -> Vec<Vec<u8>> {
        let mut request = encode_u32(&[kernel.len() as u32]);
        request.extend(kernel.as_bytes());
        request.extend(encode_u32(&[groups as u32, threads as u32, arguments.len() as u32]));
        for argument in arguments {
            argument.write(&mut request);
        }
        let sizes = arguments.iter().filter_map(|argument| match argument {
            Argument::Buffer(bytes, _) => Some(bytes.len()),
            _ => None,
        });
        let mut driver = self.driver.borrow_mut();
        match driver.run(&request, &sizes.collect::<Vec<_>>()) {
            Ok(buffers) => buffers,
            Err(error) => panic!("{kernel}: {error}: {}", driver.reason()),
        }
    }

    /// Checks that every value is within its bound of the reference, and records the largest error
    /// relative to its bound.
    pub(crate) fn compare(
        &self,
        what: &str,
        context: &str,
        got: &[f64],
        want: &[f64],
        bound: impl Fn(usize) -> f64,
    ) {
        assert_eq!(got.len(), want.len(), "{what}, {context}");
        let mut worst = self.worst.borrow_mut();
        let worst = worst.entry(what.to_owned()).or_default();
        for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
            if got == want || got.is_nan() && want.is_nan() {
                continue;
            }
            let error = (got - want).abs();
            assert!(
                error <= bound(i),
                "{what}, {context}, {i}: {got:e}, not {want:e} ± {:e}",
                bound(i)
            );
            *worst = worst.max(error / bound(i));
        }
    }

    /// Prints the largest errors relative to their bounds.
    pub(crate) fn report(&self) {
        let worst = self.worst.borrow();
        assert!(!worst.is_empty());
        println!("{:?} {:?}: {worst:.2?}", self.dialect, self.element);
    }
}

/// A generator of uniform random numbers.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.bits() % limit as u64) as usize
    }

    /// Returns a number within ±`size`.
    pub(crate) fn next(&mut self, size: f32) -> f32 {
        size * ((self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
    }

    pub(crate) fn many(&mut self, count: usize, size: f32) -> Vec<f32> {
        (0..count).map(|_| self.next(size)).collect()
    }
}
