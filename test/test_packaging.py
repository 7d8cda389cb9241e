# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""What is installed, and which module may import what."""

import ast
import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pi_vla_ros"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser(delimiters=("=",))
    config.read(ROOT / "setup.cfg")
    return config


def entry_points() -> dict[str, str]:
    """{executable: "module:function"} of setup.cfg."""
    lines = setup_cfg()["options.entry_points"]["console_scripts"].strip().splitlines()
    return dict(line.split(" = ") for line in lines)


def room(path: Path) -> str:
    """The module's place in the package: "control", "engine", ... or "robot" for robot.py."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_names(tree: ast.AST) -> set[str]:
    """Every absolute module name that is imported anywhere in the file, at load or later."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
    return names


def import_all(modules: list[str], without: list[str]) -> None:
    """Import these modules and all that they contain in a fresh Python where `without` fails."""
    code = f"""
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys({without!r}))  # None: importing it raises ImportError
for name in {modules!r}:
    module = importlib.import_module(name)
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), name + "."):
        importlib.import_module(found.name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_version():
    cfg = setup_cfg()["metadata"]["version"]
    xml = ElementTree.parse(ROOT / "package.xml").findtext("version")
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    init = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and node.targets[0].id == "__version__"
    )
    assert cfg == xml == init


@pytest.mark.parametrize("target", entry_points().values(), ids=entry_points().keys())
def test_entry_point_is_defined(target):
    module, function = target.split(":")
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    tree = ast.parse(path.read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.ros
@pytest.mark.parametrize("name", ["ActionChunk", "InferenceStatus"])
def test_built_message_is_the_one_in_the_tree(name):
    messages = pytest.importorskip("pi_vla_ros.msg")
    lines = (line.split("#")[0].split() for line in (ROOT / f"msg/{name}.msg").open())
    fields = [line[1] for line in lines if len(line) == 2]
    assert list(getattr(messages, name).get_fields_and_field_types()) == fields


@pytest.mark.ros
@pytest.mark.parametrize("name", entry_points())
def test_launcher_is_installed(name):
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    folders = [Path(prefix, "lib/pi_vla_ros") for prefix in prefixes]
    installed = [folder for folder in folders if folder.is_dir()]
    if not installed:
        pytest.skip("the package is not built here")
    launcher = installed[0] / name
    assert os.access(launcher, os.X_OK)
    # With an interpreter of many characters the first line is sh, which Python reads as well.
    interpreter = launcher.read_text().splitlines()[0].removeprefix("#!")
    assert os.access(interpreter, os.X_OK)
    compile(launcher.read_text(), launcher, "exec")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_source_keeps_the_rules(path):
    text = path.read_text()
    assert text.startswith("# Copyright 2026 pi_vla_ros maintainers\n# SPDX-License-Identifier: Apache-2.0\n")
    tree = ast.parse(text)
    names = {name.split(".")[0] for name in imported_names(tree)}

    # Data never becomes code.
    assert not names & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not {call.id for call in calls if isinstance(call, ast.Name)} & {"eval", "exec"}
    assert "torch.load" not in {ast.unparse(call) for call in calls}

    # ROS is in ros/ and sim/, triton in engine/ and kernels/.
    ros = {name for name in names if name.startswith("rcl") or name.endswith(("_msgs", "_srvs"))}
    assert not ros or room(path) in {"ros", "sim"}
    assert "triton" not in names or room(path) in {"engine", "kernels"}


def test_control_and_robot_load_without_torch():
    import_all(["pi_vla_ros.control", "pi_vla_ros.robot"], without=["torch"])


def test_engine_and_policy_load_without_ros():
    without = ["rclpy", "sensor_msgs", "std_msgs", "trajectory_msgs", "pi_vla_ros.msg"]
    # triton comes with PyTorch for NVIDIA GPUs only, and the engine loads without it.
    import_all(["pi_vla_ros.engine.engine", "pi_vla_ros.policy"], without=[*without, "triton"])


def test_a_model_is_made_without_the_compiler_of_torch():
    """Its import would add seconds to every start of the node."""
    code = """
import sys
from pi_vla_ros.checkpoint.random import random_model
from pi_vla_ros.model.geometry import tiny
random_model(tiny("pi05"))
sys.exit("torch._dynamo" in sys.modules)"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.ros
def test_launch_files_load_in_the_python_of_ros():
    # `ros2 launch` runs in the installation's own Python, which need not have any of these.
    pytest.importorskip("launch.actions")
    pytest.importorskip("launch_ros.actions")
    import_all(["pi_vla_ros.ros.launching"], without=["torch", "mujoco", "cv2", "safetensors"])


@pytest.mark.slow
def test_wheel_has_code_and_robot_files(tmp_path):
    tree = copy_of_tree(tmp_path)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", tree, "--no-deps", "--no-build-isolation", "-q"],
        cwd=tmp_path,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {str(path.relative_to(ROOT)) for path in SOURCES} <= names
    assert "pi_vla_ros/py.typed" in names
    share = {name.partition("/data/share/pi_vla_ros/")[2] for name in names}
    assert {str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*.cu*")} <= names
    shared = [*ROOT.glob("config/**/*.*"), *ROOT.glob("launch/*.py"), ROOT / "package.xml"]
    assert {str(path.relative_to(ROOT)) for path in shared} <= share


@pytest.mark.ros
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("options", [[], ["--symlink-install"]], ids=["plain", "symlink"])
def test_colcon_workspace(tmp_path, options):
    pytest.importorskip("rclpy")
    copy_of_tree(tmp_path / "src")
    build = [sys.executable, "-m", "colcon", "build", *options, "--cmake-args", "-DBUILD_TESTING=OFF"]
    subprocess.run(build, cwd=tmp_path, check=True)
    env = dict(os.environ)
    for name in ("PYTHONPATH", "AMENT_PREFIX_PATH"):  # not the tree and build that the tests use
        places = env.get(name, "").split(os.pathsep)
        env[name] = os.pathsep.join(p for p in places if p and f"{ROOT}/.ws/" not in f"{p}/")
    run = ". install/local_setup.bash && exec install/pi_vla_ros/lib/pi_vla_ros/demo --help"
    subprocess.run(["bash", "-c", run], cwd=tmp_path, env=env, check=True)


def copy_of_tree(parent: Path) -> Path:
    """A copy of what is installed, since pip and setuptools write into the folder they build."""
    tree = parent / "pi_vla_ros"
    ignore = shutil.ignore_patterns(".*", "__pycache__", "docs", "build", "install", "log")
    return shutil.copytree(ROOT, tree, ignore=ignore)
