# Copyright 2026 pi_vla_ros maintainers
# SPDX-License-Identifier: Apache-2.0
"""A lifecycle node that survives `ros2 lifecycle set` with a transition that its state does not have."""

from __future__ import annotations

from rclpy.lifecycle import LifecycleNode


def refuse_wrong_transitions(node: LifecycleNode) -> None:
    """rclpy raises through the executor when a transition is asked for by a number that the state does not know, and
    the node would be gone. Answer 'no', and say what there is."""
    service = node._service_change_state  # rclpy has no public way to it
    change = service.callback

    def checked(request, response):
        wanted = request.transition
        known = {number: label for number, label, *_ in node._state_machine.available_transitions}
        if not wanted.label and wanted.id not in known:
            _, state = node._state_machine.current_state
            node.get_logger().error(
                f"transition {wanted.id} is not possible in state '{state}'; possible: "
                + ", ".join(f"{label} ({number})" for number, label in sorted(known.items()))
            )
            response.success = False
            return response
        return change(request, response)

    service.callback = checked
