"""The world: text, language models, downstream tasks, and the environments built from them.

Importing this package registers the environments with Gymnasium. The entry points are strings, so
nothing heavy is imported until an environment is made.
"""

from gymnasium.envs.registration import register

register(id="nmg/MaskQA-v0", entry_point="envs.building:make_question_answering_env")
register(id="nmg/MaskClassification-v0", entry_point="envs.building:make_classification_env")
register(id="nmg/MaskGeneration-v0", entry_point="envs.generation_building:make_generation_env")
register(id="nmg/MaskTestbed-v0", entry_point="envs.building:make_testbed_env")
