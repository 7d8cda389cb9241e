# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""The node that puts a policy on a robot: wiring. The story of one tick is in control_loop.py.

Lifecycle: configure loads, warms up and captures; activate begins to command, first holding the measured state;
deactivate decelerates, holds, then is silent.
"""

from __future__ import annotations

import functools
import gc
import signal
import sys
import threading
import time
import traceback

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from pi_vla_ros.control_loop import ControlLoop
from pi_vla_ros.msg import ActionChunk as ActionChunkMessage
from pi_vla_ros.msg import InferenceStatus
from pi_vla_ros.policy import Policy
from pi_vla_ros.robot import load_robot
from pi_vla_ros.ros import qos
from pi_vla_ros.ros.dds import use_shared_memory_profile
from pi_vla_ros.ros.messages import action_chunk
from pi_vla_ros.ros.outputs import Outputs
from pi_vla_ros.ros.parameters import declare_parameters, read_parameters
from pi_vla_ros.ros.telemetry import diagnostics_message, status_message
from pi_vla_ros.ros.transitions import refuse_wrong_transitions
from pi_vla_ros.types import ActionChunk

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
PATIENCE = 1.0  # s of wall time beyond what braking takes
SAME_LOG = 2.0  # s between two log lines of the same reason


class PolicyNode(LifecycleNode):
    def __init__(self):
        super().__init__("pi_vla_ros")
        declare_parameters(self)
        refuse_wrong_transitions(self)
        self._interfaces: list = []  # what configure makes and cleanup destroys
        self._ticking: list = []
        self._policy = self._outputs = self._loop = None
        self._active, self._logged = False, {}
        # a service that waits for the arm to rest must not keep the other callbacks waiting
        self._waiting = ReentrantCallbackGroup()
        self.failed = False  # autostart did not get the node ready
        self.add_on_set_parameters_callback(self._on_parameters)
        if self.get_parameter("autostart").value:
            self._starter = self.create_timer(0.0, self._autostart)

    # --- life cycle ---------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._configure()
        except Exception as error:  # rclpy swallows exceptions in transitions
            self._log_failure("configure", error)
            self._cleanup()
            return FAILURE
        return SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._outputs.open()
        self._active = True
        self._loop.begin()
        self._ticking = [
            self.create_timer(1.0 / self._robot.timing.inference_hz, self._tick),
            self.create_timer(1.0, self._diagnose),
        ]
        self.get_logger().info(f"active on robot '{self._robot.name}', prompt: '{self._loop.prompt}'")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._active = False
        self._stop_timers()
        at_rest = self._loop.motion.finish(self._now())
        patience = time.monotonic() + at_rest - self._now() + PATIENCE  # a simulated clock may stand still
        while self._now() < at_rest and time.monotonic() < patience and rclpy.ok():
            time.sleep(0.005)
        self._loop.fall_silent()
        self._publish_status()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._cleanup()
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return SUCCESS

    def close(self) -> None:
        """Decelerate if moving, then free everything. Safe to call in any state."""
        if self._active:
            self.on_deactivate(None)
        self._cleanup()

    def _configure(self) -> None:
        parameters = read_parameters(self)
        self._robot = load_robot(parameters.robot, parameters.robot_description)
        self._outputs = Outputs(self, self._robot)
        begin = time.perf_counter()
        self._policy = Policy(parameters.checkpoint, self._robot, parameters.policy)
        for note in self._policy.notes:
            self.get_logger().info(note)
        prompt = self.get_parameter("prompt").value or self._robot.prompt
        if prompt:
            self._policy.check_prompt(prompt)
        else:
            self.get_logger().warning("no prompt yet: nothing moves before one comes (parameter prompt or ~/prompt)")
        self._make_publishers()
        self._loop = ControlLoop(self._robot, self._policy, self._outputs, self._now, self._tell_chunk, self._complain)
        self._loop.prompt = prompt
        self._make_inputs()
        # A full collection looks at all of PyTorch's objects, too: 0.1 s and more in which nothing else runs.
        gc.collect()
        gc.freeze()
        self.get_logger().info(
            f"{self._policy.model} ready in {time.perf_counter() - begin:.1f} s: {parameters.checkpoint}"
        )

    def _make_publishers(self) -> None:
        self._status = self.create_publisher(InferenceStatus, "~/status", qos.LATCHED)
        self._chunks = self.create_publisher(ActionChunkMessage, "~/action_chunk", qos.TELEMETRY)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.TELEMETRY)
        self._interfaces += [self._status, self._chunks, self._diagnostics]

    def _make_inputs(self) -> None:
        sub, srv = self.create_subscription, self.create_service
        overrides = QoSOverridingOptions.with_default_policies()
        for slot, camera in self._robot.cameras.items():
            kind = Image if camera.transport == "raw" else CompressedImage
            put = functools.partial(self._on_image, slot)
            self._interfaces.append(sub(kind, camera.topic, put, qos.IMAGES, qos_overriding_options=overrides))
        self._interfaces += [
            sub(JointState, "joint_states", self._on_joint_state, qos.JOINT_STATES, qos_overriding_options=overrides),
            sub(String, "~/prompt", self._on_prompt, qos.LATCHED),
            srv(SetBool, "~/enable", self._on_enable),
            srv(Trigger, "~/reset", self._on_reset, callback_group=self._waiting),
            srv(SetBool, "~/estop", self._on_estop, callback_group=self._waiting),
        ]

    def _cleanup(self) -> None:
        self._stop_timers()
        gc.unfreeze()
        if self._loop and not self._loop.close():
            self.get_logger().error("an inference hangs: its memory stays taken until this process ends")
        elif self._policy:
            self._policy.close()
        if self._outputs:
            self._outputs.close()
        self._loop = self._policy = self._outputs = None
        for thing in self._interfaces:
            self._destroy(thing)
        self._interfaces = []

    def _tick(self) -> None:
        """One tick: see control_loop.py."""
        self._loop.tick()
        self._publish_status()

    # --- what arrives -------------------------------------------------------------------------------------------

    def _on_image(self, slot: str, message: Image | CompressedImage) -> None:
        self._loop.put_image(slot, message)

    def _on_joint_state(self, message: JointState) -> None:
        self._loop.put_joint_state(message)

    def _on_prompt(self, message: String) -> None:
        refused = self._loop.take_prompt(message.data)
        if refused:
            self.get_logger().error(f"{refused}; keeping '{self._loop.prompt}'")

    def _on_parameters(self, parameters) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name == "prompt" and self._loop is not None:
                refused = self._loop.take_prompt(parameter.value)
                if refused:
                    return SetParametersResult(successful=False, reason=refused)
        return SetParametersResult(successful=True)

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if request.data and self._loop.motion.estopped:
            return _answer(response, False, "the emergency stop is latched; release it first (~/estop false)")
        self._loop.motion.enable(request.data, self._now())
        return _answer(response, True, "enabled" if request.data else "decelerates and holds")

    async def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Forget what was seen and start anew from the measured state, at rest first."""
        motion = self._loop.motion
        await self._until(motion.finish(self._now()))
        if not motion.estopped:
            motion.stopped(self._now())
        self._loop.buffer.clear()
        return _answer(response, True, "starts anew from the measured state")

    async def _on_estop(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        """Latch: brake, answer when the arm is at rest, command nothing from then on."""
        at_rest = self._loop.motion.estop(request.data, self._now())
        if not request.data:
            return _answer(response, True, "released; call ~/enable to move again")
        self.get_logger().error("emergency stop")
        await self._until(at_rest)
        self._loop.fall_silent()
        return _answer(response, True, "latched: at rest, commanding nothing; release with ~/estop false")

    # --- small things -------------------------------------------------------------------------------------------

    def _now(self) -> float:
        """s, ROS clock."""
        return self.get_clock().now().nanoseconds * 1e-9

    async def _until(self, when: float) -> None:
        """Let the executor go on until ROS time `when`."""
        wait = when - self._now()
        if wait <= 0:
            return
        done = Future()
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # a simulated clock may stand still
        timer = self.create_timer(wait, lambda: done.set_result(None), callback_group=self._waiting, clock=steady)
        await done
        self.destroy_timer(timer)

    def _tell_chunk(self, chunk: ActionChunk, prompt: str) -> None:
        if rclpy.ok():
            count = self._loop.telemetry.inferences
            self._chunks.publish(action_chunk(chunk, self._robot.joint_names, prompt, count))

    def _publish_status(self) -> None:
        self._last = status_message(self._now(), self._loop, self._outputs.stream)
        self._status.publish(self._last)

    def _diagnose(self) -> None:
        if self._outputs.stream and not self._outputs.stream.alive:
            self._complain("streamer_died", "the streamer process ended: no commands are published; restart the node")
        self._diagnostics.publish(diagnostics_message(self._now(), self.get_name(), self._last, self._loop.buffer))

    def _complain(self, reason: str, detail: str) -> None:
        """Log, but the same reason at most every few seconds."""
        now = time.monotonic()
        if now - self._logged.get(reason, -SAME_LOG) >= SAME_LOG:
            self._logged[reason] = now
            self.get_logger().error(f"{reason}: {detail}")

    def _log_failure(self, what: str, error: Exception) -> None:
        expected = isinstance(error, (ValueError, OSError))  # these speak for themselves
        self.get_logger().error(f"cannot {what}: {error}" if expected else f"cannot {what}:\n{traceback.format_exc()}")

    def _stop_timers(self) -> None:
        for timer in self._ticking:
            self.destroy_timer(timer)
        self._ticking = []

    def _destroy(self, thing) -> None:
        kind = type(thing).__name__
        if kind.endswith("Publisher"):
            self.destroy_publisher(thing)
        elif kind == "Service":
            self.destroy_service(thing)
        else:
            self.destroy_subscription(thing)

    def _autostart(self) -> None:
        self._starter.cancel()
        if self.trigger_configure() == SUCCESS:
            self.trigger_activate()
        else:
            self.failed = True


def _answer(response, success: bool, words: str):
    response.success, response.message = success, words
    return response


def main() -> None:
    use_shared_memory_profile()
    # rclpy's own handlers would invalidate the context before the arm has been braked
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    node, executor = PolicyNode(), SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while not stop.is_set() and not node.failed:
            executor.spin_once(timeout_sec=0.2)
    finally:
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()
    for number in (signal.SIGINT, signal.SIGTERM):  # launch repeats Ctrl-C; it must not cut the exit short
        signal.signal(number, signal.SIG_IGN)
    sys.exit(1 if node.failed else 0)


if __name__ == "__main__":
    main()
