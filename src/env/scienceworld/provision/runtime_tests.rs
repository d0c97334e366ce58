//! The folder of a small fake wheel.

use crate::env::scienceworld::provision::runtime::*;
use crate::provision::fake_index::{wheel_bytes, FILE};

#[test]
fn an_unpacked_folder_must_be_that_of_its_wheel() {
    let folder = tempfile::tempdir().unwrap();
    let wheel = folder.path().join(FILE);
    std::fs::write(&wheel, wheel_bytes()).unwrap();
    let runtime = folder.path().join("runtime");
    for _ in 0..2 {
        unpack(&wheel, "fake/runtime", &runtime).unwrap();
    }
    let error = unpack(&wheel, "fake/none", &runtime).unwrap_err().to_string();
    assert!(error.contains("fake/none"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "no temporary file is left");
    let check = || check_unpacked(&wheel, "fake/runtime", &runtime).map_err(|e| e.to_string());
    check().unwrap();
    let java = runtime.join("bin/java");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = java.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "programs stay executable");
    }
    for other in ["#!/bin/ah", "#!/bin/s", "#!/bin/sh\n", ""] {
        std::fs::write(&java, other).unwrap();
        let error = check().unwrap_err();
        assert!(error.contains("bin/java") && error.contains("content"), "{other:?}: {error}");
    }
    std::fs::write(&java, "#!/bin/sh").unwrap();
    check().unwrap();
    let extra = runtime.join("bin/classes.jsa");
    std::fs::write(&extra, "").unwrap();
    assert!(check().unwrap_err().contains("classes.jsa"));
    std::fs::remove_file(&extra).unwrap();
    std::fs::remove_file(&java).unwrap();
    assert!(check().unwrap_err().contains("bin/java"));
}
