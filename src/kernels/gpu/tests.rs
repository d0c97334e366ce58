//! The device tests on a CPU back end: CPU storages, and kernels compiled for the host.
//!
//! They show that every launch passes the arguments that its kernel declares, from the public
//! operators down. They need a C++ compiler.
#![allow(clippy::unwrap_used)]

#[macro_use]
#[path = "../../../tests/device/mod.rs"]
#[allow(unused_macros)]
mod device;
#[allow(dead_code, unreachable_pub)]
#[path = "../../../tests/gpu_host/launch.rs"]
mod launch;

use crate::kernels::gpu::launch::{
    check_types, multiply_by_kernel, Argument, DeviceStorage, Launch, Matrices, MatricesMut,
    Multiplication, THREADS,
};
use candle_core::backend::BackendDevice;
use candle_core::cpu_backend::CpuDevice;
use candle_core::{CpuStorage, DType, Device, Result, Shape, Storage, WithDType};
use launch::{encode_f32, encode_u32, Dialect, Element, Machine};
use std::cell::RefCell;

thread_local! {
    /// The kernels of each element type, on the thread that tests them.
    static MACHINES: RefCell<Vec<Machine>> = const { RefCell::new(Vec::new()) };
}

/// Returns true if this thread runs the device kernels on the CPU.
pub(crate) fn on_host() -> bool {
    MACHINES.with_borrow(|machines| !machines.is_empty())
}

fn element_of(dtype: DType) -> Element {
    match dtype {
        DType::BF16 => Element::Bf16,
        DType::F16 => Element::F16,
        _ => Element::F32,
    }
}

fn bytes_of(storage: &CpuStorage, start: usize) -> Vec<u8> {
    fn widen<T: WithDType>(x: &[T]) -> Vec<f32> {
        x.iter().map(|x| x.to_f64() as f32).collect()
    }
    match storage {
        CpuStorage::U32(x) => encode_u32(&x[start..]),
        CpuStorage::F32(x) => encode_f32(&x[start..]),
        CpuStorage::BF16(x) => Element::Bf16.encode(&widen(&x[start..])),
        CpuStorage::F16(x) => Element::F16.encode(&widen(&x[start..])),
        other => panic!("no kernel takes {:?}", candle_core::backend::BackendStorage::dtype(other)),
    }
}

fn write(storage: &mut CpuStorage, start: usize, bytes: &[u8]) {
    fn narrow<T: WithDType>(to: &mut [T], element: Element, bytes: &[u8]) {
        to.iter_mut().zip(element.decode(bytes)).for_each(|(to, x)| *to = T::from_f64(x));
    }
    match storage {
        CpuStorage::F32(x) => narrow(&mut x[start..], Element::F32, bytes),
        CpuStorage::BF16(x) => narrow(&mut x[start..], Element::Bf16, bytes),
        CpuStorage::F16(x) => narrow(&mut x[start..], Element::F16, bytes),
        other => {
            panic!("no kernel writes {:?}", candle_core::backend::BackendStorage::dtype(other))
        }
    }
}

fn decode(storage: &CpuStorage) -> Vec<f64> {
    fn widen<T: WithDType>(x: &[T]) -> Vec<f64> {
        x.iter().map(|x| x.to_f64()).collect()
    }
    match storage {
        CpuStorage::F32(x) => widen(x),
        CpuStorage::BF16(x) => widen(x),
        CpuStorage::F16(x) => widen(x),
        other => panic!("no product of {:?}", candle_core::backend::BackendStorage::dtype(other)),
    }
}

fn store<T: WithDType>(to: &mut [T], values: &[f64]) {
    to.iter_mut().zip(values).for_each(|(to, &x)| *to = T::from_f64(x));
}

/// All numbers of the storage of `out` after a multiplication.
fn products(
    out: &MatricesMut<'_, CpuStorage>,
    [a, b]: [&Matrices<'_, CpuStorage>; 2],
    size: Multiplication,
) -> Vec<f64> {
    let Multiplication { rows, columns, terms, count, alpha, accumulate } = size;
    let [x, y] = [a, b].map(|factor| decode(factor.storage));
    let place = |m: &Matrices<'_, CpuStorage>, (row, column): (usize, usize), entry: usize| {
        let (row, column) = if m.transposed { (column, row) } else { (row, column) };
        m.start + entry * m.batch + row * m.stride + column
    };
    let mut results = decode(out.storage);
    for i in 0..count * rows * columns {
        let (entry, row, column) = (i / columns / rows, i / columns % rows, i % columns);
        let term = |k| x[place(a, (row, k), entry)] * y[place(b, (k, column), entry)];
        let product = f64::from(alpha) * (0..terms).map(term).sum::<f64>();
        let result = &mut results[out.start + entry * out.batch + row * columns + column];
        *result = if accumulate { *result + product } else { product };
    }
    results
}

/// `IN ELEMENT`, `U32` and so on for every parameter of a kernel's declaration.
fn declaration(kernel: &str) -> Vec<String> {
    let (_, rest) =
        crate::kernels::gpu::launch::KERNELS.split_once(&format!("KERNEL({kernel}, ")).unwrap();
    let (parameters, _) = rest.split_once(") {").unwrap();
    let parameter = |(place, text): (usize, &str)| {
        let (kind, words) = text.trim().split_once('(').unwrap();
        let words: Vec<&str> = words.split(',').map(str::trim).collect();
        assert_eq!(words[0], place.to_string(), "{kernel}");
        match words.len() {
            3 => format!("{kind} {}", words[1]),
            _ => kind.to_owned(),
        }
    };
    parameters.split("),").enumerate().map(parameter).collect()
}

fn kind(
    arguments: &[Argument<'_, CpuStorage>],
    argument: &Argument<'_, CpuStorage>,
    dtype: DType,
) -> String {
    use candle_core::backend::BackendStorage;
    let (kind, storage) = match argument {
        Argument::U32(_) => return "U32".to_owned(),
        Argument::F32(_) => return "F32".to_owned(),
        Argument::Same(place) => return kind(arguments, &arguments[*place], dtype),
        Argument::In(storage, _) => ("IN", storage.dtype()),
        Argument::Out(storage, _) => ("OUT", storage.dtype()),
    };
    let name = match storage {
        DType::U32 => "uint",
        other if other == dtype => "ELEMENT",
        _ => "float",
    };
    format!("{kind} {name}")
}

impl DeviceStorage for CpuStorage {
    fn of(storage: &Storage) -> Option<&Self> {
        match storage {
            Storage::Cpu(storage) => Some(storage),
            _ => None,
        }
    }

    fn of_mut(storage: &mut Storage) -> Option<&mut Self> {
        match storage {
            Storage::Cpu(storage) => Some(storage),
            _ => None,
        }
    }

    fn wrap(self) -> Storage {
        Storage::Cpu(self)
    }

    /// Filled with NaN, so that elements a kernel does not write are noticed.
    fn unfilled(device: &CpuDevice, count: usize, dtype: DType) -> Result<Self> {
        let mut storage = device.zeros_impl(&Shape::from(count), dtype)?;
        let ones = vec![0xff; count * dtype.size_in_bytes()];
        write(&mut storage, 0, &ones);
        Ok(storage)
    }

    /// By loops; small products also by the kernel, to compare.
    fn multiply(
        device: &CpuDevice,
        out: MatricesMut<'_, Self>,
        a: Matrices<'_, Self>,
        b: Matrices<'_, Self>,
        size: Multiplication,
    ) -> Result<()> {
        let dtype = |s: &CpuStorage| candle_core::backend::BackendStorage::dtype(s);
        check_types(dtype(out.storage), dtype(a.storage), dtype(b.storage))?;
        let multiply_adds = size.rows * size.columns * size.terms * size.count;
        assert!(multiply_adds > 0, "{size:?}");
        let results = products(&out, [&a, &b], size);
        if multiply_adds > 4000 {
            match out.storage {
                CpuStorage::F32(to) => store(to, &results),
                CpuStorage::BF16(to) => store(to, &results),
                CpuStorage::F16(to) => store(to, &results),
                other => panic!("no product gives {:?}", dtype(other)),
            }
            return Ok(());
        }
        let MatricesMut { storage, start, batch } = out;
        multiply_by_kernel(
            device,
            MatricesMut { storage: &mut *storage, start, batch },
            a,
            b,
            size,
        )?;
        for (got, want) in decode(storage).into_iter().zip(results) {
            let close = (got - want).abs() <= 0.01 * want.abs() + 1e-3;
            assert!(close || got.is_nan() && want.is_nan(), "{got} instead of {want}: {size:?}");
        }
        Ok(())
    }

    fn launch(_: &CpuDevice, mut launch: Launch<'_, Self>) -> Result<()> {
        check_kinds(&launch);
        let size = |storage: &CpuStorage| {
            candle_core::backend::BackendStorage::dtype(storage).size_in_bytes()
        };
        let buffer = |s: &CpuStorage, start: usize| {
            launch::Argument::Buffer(bytes_of(s, start), start * size(s) % 16)
        };
        let argument = |argument: &Argument<'_, CpuStorage>| match argument {
            Argument::In(s, start) => buffer(s, *start),
            Argument::Out(s, start) => buffer(s, *start),
            Argument::Same(place) => launch::Argument::Same(*place as u32),
            Argument::U32(x) => launch::Argument::U32(*x),
            Argument::F32(x) => launch::Argument::F32(*x),
        };
        let arguments: Vec<_> = launch.arguments.iter().map(argument).collect();
        let buffers = MACHINES.with_borrow(|machines| {
            let machine = machines.iter().find(|m| m.element == element_of(launch.dtype)).unwrap();
            machine.run(launch.kernel, launch.groups, THREADS, &arguments)
        });
        let held = launch
            .arguments
            .iter_mut()
            .filter(|a| matches!(a, Argument::In(..) | Argument::Out(..)));
        for (argument, bytes) in held.zip(buffers) {
            if let Argument::Out(storage, start) = argument {
                write(storage, *start, &bytes);
            }
        }
        Ok(())
    }
}

/// Checks that the arguments have the declared kinds; in f32, elements and other floats cannot be
/// distinguished.
fn check_kinds(launch: &Launch<'_, CpuStorage>) {
    let element = |kind: &String| match launch.dtype {
        DType::F32 => kind.replace("float", "ELEMENT"),
        _ => kind.clone(),
    };
    let given = |argument| kind(&launch.arguments, argument, launch.dtype);
    let mut declared: Vec<String> = declaration(launch.kernel).iter().map(element).collect();
    for (declared, argument) in declared.iter_mut().zip(&launch.arguments) {
        if let Argument::Same(_) = argument {
            declared.replace_range(..declared.find(' ').unwrap(), "OUT");
        }
    }
    let mut given: Vec<String> = launch.arguments.iter().map(given).collect();
    // A buffer that is overwritten in place is passed for writing and declared for reading.
    if launch.arguments.iter().any(|argument| matches!(argument, Argument::Same(0))) {
        given[0] = given[0].replace("OUT", "IN");
    }
    assert_eq!(given, declared, "{}", launch.kernel);
}

macro_rules! call_tests {
    ($device:expr, $module:ident: $($test:ident)+) => {
        $(device::$module::$test($device);)+
    };
}

#[test]
fn the_device_tests_pass_on_the_hosts_kernels() {
    for element in [Element::F32, Element::Bf16, Element::F16] {
        let Some(machine) = Machine::compile(Dialect::Host, element) else { return };
        MACHINES.with_borrow_mut(|machines| machines.push(machine));
    }
    device_tests!(call_tests, &Device::Cpu);
}
