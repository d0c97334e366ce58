//! The kernels on a Metal device. Without one, the tests pass with a note, unless
//! EPO_REQUIRE_METAL=1.

#[macro_use]
mod device;

device_tests!(
    define_tests,
    device::open(epo::train::config::DeviceKind::Metal, "EPO_REQUIRE_METAL")
);
