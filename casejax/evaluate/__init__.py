"""Evaluation of detections and of video-level classification."""
