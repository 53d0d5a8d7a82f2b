"""Base against tuned: questions, answers, exams, measures, report, gate."""
