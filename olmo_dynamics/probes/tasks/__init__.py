"""Tasks: questions with answers to choose from, and pairs of sentences, as JSON lines and as tokens.

>>> [task] = read_tasks(["agreement"])
>>> task.name, task.items[0].choices
('agreement', ('The keys of the old cabinet are on the shelf.', 'The keys of the old cabinet is on the shelf.'))
"""

from olmo_dynamics.names import SHIPPED_TASKS as SHIPPED
from olmo_dynamics.probes.tasks.task_files import Task, TaskItem, read_tasks
from olmo_dynamics.probes.tasks.task_requests import TaskRequests

__all__ = ["SHIPPED", "Task", "TaskItem", "TaskRequests", "read_tasks"]
