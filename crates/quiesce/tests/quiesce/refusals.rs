//! What is not frozen. What is no loop mount of the test is only ever checked, never frozen.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lockstep_quiesce::{MAX_LIMIT, MAX_MOUNT_POINTS, Quiesce, QuiesceError, Refusal, freeze_order};

use crate::lab::{Lab, Mounted, folder, freezing, hooks_only, need, run, text};

/// Nothing but looking is done with these paths.
fn refusal(paths: &[&Path], change: impl FnOnce(&mut Quiesce)) -> String {
    let state = folder();
    let mut quiesce = hooks_only(state.path());
    quiesce.freeze = paths.iter().map(|&path| path.to_owned()).collect();
    change(&mut quiesce);
    quiesce.check().unwrap_err().to_string()
}

fn assert_says(refusal: &str, words: &[&str]) {
    for word in words {
        assert!(refusal.contains(word), "{refusal:?} lacks {word:?}");
    }
    assert!(!refusal.contains('\n') && !refusal.ends_with('.'));
}

#[test]
fn the_root_filesystem_is_refused() {
    assert_says(
        &refusal(&[Path::new("/")], |_| ()),
        &["/", "root filesystem"],
    );
}

#[test]
fn what_is_no_mount_point_is_refused_with_the_one_it_lies_in() {
    let refused = refusal(&[Path::new("/proc/self")], |_| ());
    assert_says(
        &refused,
        &["/proc/self", "not a mount point", "mounted on /proc;"],
    );
    let missing = refusal(&[Path::new("/no/such/folder")], |_| ());
    assert_says(&missing, &["/no/such/folder", "No such file"]);
    let file = refusal(&[Path::new("/proc/version")], |_| ());
    assert_says(&file, &["/proc/version", "Not a directory"]);
}

#[test]
fn limits_and_numbers_out_of_bounds_are_refused() {
    let many = vec![Path::new("/proc"); MAX_MOUNT_POINTS + 1];
    assert_says(&refusal(&many, |_| ()), &["33 mount points", "at most 32"]);
    for limit in [Duration::ZERO, MAX_LIMIT + Duration::from_secs(1)] {
        let refused = refusal(&[Path::new("/proc")], |quiesce| quiesce.limit = limit);
        assert_says(&refused, &["cannot be frozen for", "up to 600 s"]);
    }
}

fn check(lab: &Lab, change: impl FnOnce(&mut Quiesce)) -> Result<(), Refusal> {
    let mut quiesce = lab.quiesce();
    change(&mut quiesce);
    quiesce.check()
}

/// Whatever order they are named in.
#[test]
fn a_filesystem_in_an_image_is_frozen_before_the_one_that_holds_the_image() {
    let outer = need!(Mounted::new("ext4", 64));
    let within = outer.point.join("inner");
    std::fs::create_dir(&within).unwrap();
    // Its image lies on the outer filesystem, its mount point in it.
    let inner = need!(Mounted::within(&within, "ext4", 16));
    let (outer_point, inner_point) = (outer.point.clone(), inner.point.clone());
    for named in [
        vec![outer_point.clone(), inner_point.clone()],
        vec![
            inner_point.clone(),
            outer_point.clone(),
            inner_point.clone(),
        ],
    ] {
        let order = freeze_order(&named).unwrap();
        assert_eq!(order, [inner_point.clone(), outer_point.clone()]);
        let state = folder();
        let mut quiesce = hooks_only(state.path());
        quiesce.freeze = order;
        quiesce.limit = Duration::from_secs(1);
        quiesce.check().unwrap();
    }
}

#[test]
fn what_must_stay_writable_is_refused() {
    let lab = need!(Lab::new());
    let inside = |name: &str| lab.second.point.join(name);
    std::fs::write(inside("image"), b"").unwrap();
    std::fs::copy("/proc/self/exe", inside("program")).unwrap();
    std::os::unix::fs::symlink(inside("image"), lab.state.path().join("link")).unwrap();
    check(&lab, |_| ()).unwrap();
    let refused = |change: &dyn Fn(&mut Quiesce)| check(&lab, change).unwrap_err().to_string();

    let image = refused(&|quiesce| quiesce.images = vec![inside("image")]);
    assert_says(&image, &["hold up the image", text(&inside("image"))]);
    let linked = refused(&|quiesce| quiesce.images = vec![lab.state.path().join("link")]);
    assert_says(&linked, &["hold up the image"]);
    let still_to_be_made = refused(&|quiesce| quiesce.state_dir = inside("a/b"));
    assert_says(&still_to_be_made, &["hold up the state directory"]);
    let program = refused(&|quiesce| quiesce.watchdog = vec![inside("program").into()]);
    assert_says(&program, &["hold up the running program"]);
    std::fs::remove_file(inside("program")).unwrap();
}

#[test]
fn what_is_stored_on_it_is_refused_too() {
    let lab = need!(Lab::new());
    let inner = need!(Mounted::within(&lab.second.point, "ext4", 16));
    let image = inner.point.join("image");
    std::fs::write(&image, b"").unwrap();
    let mut outer = freezing(&[&lab.second], lab.state.path());
    outer.images = vec![image];
    let refused = outer.check().unwrap_err().to_string();
    assert_says(&refused, &["hold up the image"]);
    // An image's own filesystem is what is to be frozen.
    let mut around_image = freezing(&[&inner], lab.state.path());
    around_image.images = vec![lab.second.point.join("image")];
    around_image.check().unwrap();
}

/// Each subvolume has a device number of its own in what stat(2) tells.
#[test]
fn an_image_in_another_subvolume_is_refused_too() {
    let lab = need!(Lab::new());
    let btrfs = need!(Mounted::new("btrfs", 128));
    let subvolume = btrfs.point.join("images");
    need!(run("btrfs", &["subvolume", "create", text(&subvolume)]));
    let mut quiesce = freezing(&[&btrfs], lab.state.path());
    quiesce.check().unwrap();
    quiesce.images = vec![subvolume.join("image")];
    assert_says(
        &quiesce.check().unwrap_err().to_string(),
        &["hold up the image"],
    );
    quiesce.images.clear();
    quiesce.freeze = vec![subvolume];
    assert_says(
        &quiesce.check().unwrap_err().to_string(),
        &["not a mount point"],
    );
}

#[test]
fn one_filesystem_named_twice_is_refused() {
    let lab = need!(Lab::new());
    let again = lab.state.path().join("again");
    std::os::unix::fs::symlink(&lab.first.point, &again).unwrap();
    let refused = check(&lab, |quiesce| quiesce.freeze.push(again)).unwrap_err();
    assert_says(&refused.to_string(), &["are one filesystem"]);
}

#[test]
fn a_folder_inside_is_refused() {
    let lab = need!(Lab::new());
    let inside: PathBuf = lab.first.point.join("folder");
    std::fs::create_dir(&inside).unwrap();
    let refused = check(&lab, |quiesce| quiesce.freeze = vec![inside]).unwrap_err();
    assert_says(
        &refused.to_string(),
        &["not a mount point", text(&lab.first.point)],
    );
}

#[test]
fn a_filesystem_that_cannot_be_frozen_is_refused_and_the_others_are_thawed() {
    let lab = need!(Lab::new());
    let folder = folder();
    let memory = need!(Mounted::in_memory(folder.path()));
    let quiesce = freezing(&[&lab.first, &memory], lab.state.path());
    let error = quiesce.around(|| panic!("called")).unwrap_err();
    let is_unsupported = matches!(&error, QuiesceError::Refused(Refusal::Unsupported { .. }));
    assert!(is_unsupported, "{error}");
    assert_says(&error.to_string(), &["(tmpfs) cannot be frozen"]);
    lab.assert_thawed();
}
