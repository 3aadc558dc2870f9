"""Tests of the failure drill's parts, and the measuring of answers under faults."""
